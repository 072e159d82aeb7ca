//! Branches, barriers, ends, and what the emulator has no need of: waits, hints, messages.

use crate::counters::Class;
use crate::isa::alu::Done;
use crate::isa::{After, Inst, Operand, Table};
use crate::stop::LaneFault;
use crate::wave::{Pause, VCC, Wave};

/// Instructions that only time, order or hint.
const IGNORED: &[&str] = &[
    "s_nop",
    "s_sleep",
    "s_sleep_var",
    "s_code_end",
    "s_clause",
    "s_delay_alu",
    "s_waitcnt",
    "s_waitcnt_vscnt",
    "s_waitcnt_vmcnt",
    "s_waitcnt_expcnt",
    "s_waitcnt_lgkmcnt",
    "s_waitcnt_depctr",
    "s_wait_alu",
    "s_wait_event",
    "s_wait_idle",
    "s_wait_loadcnt",
    "s_wait_storecnt",
    "s_wait_samplecnt",
    "s_wait_bvhcnt",
    "s_wait_expcnt",
    "s_wait_dscnt",
    "s_wait_kmcnt",
    "s_wait_loadcnt_dscnt",
    "s_wait_storecnt_dscnt",
    "s_sendmsg",
    "s_sethalt",
    "s_setkill",
    "s_setprio",
    "s_incperflevel",
    "s_decperflevel",
    "s_ttracedata",
    "s_ttracedata_imm",
    "s_icache_inv",
    "s_inst_prefetch",
    "s_set_inst_prefetch_distance",
    "s_prefetch_inst",
    "s_prefetch_inst_pc_rel",
    "s_prefetch_data",
    "s_prefetch_data_pc_rel",
    "s_dcache_inv",
    "s_dcache_inv_vol",
    "s_dcache_wb",
    "s_dcache_wb_vol",
    "s_gl1_inv",
    "buffer_gl0_inv",
    "buffer_gl1_inv",
    "buffer_wbinvl1",
    "buffer_wbinvl1_vol",
    "buffer_wbl2",
    "buffer_inv",
    "buffer_invl2",
    "global_inv",
    "global_wb",
    "global_wbinv",
    "s_barrier_signal",
    "v_nop",
    "v_pipeflush",
    "ds_nop",
    "s_ttracedata",
];

pub fn table(t: &mut Table) {
    for name in IGNORED {
        if t.find(name).is_none() {
            t.plain(name, Class::Other, After::Next, |_, _, _| Ok(()));
        }
    }
    for name in ["s_barrier", "s_barrier_wait"] {
        t.plain(name, Class::Other, After::Pause(Pause::Barrier), |_, _, _| Ok(()));
    }
    for name in ["s_endpgm", "s_endpgm_saved"] {
        t.plain(name, Class::Other, After::Pause(Pause::End), |_, _, _| Ok(()));
    }

    t.add("s_branch", Class::Branch, 0, |i, w, _| go(i, w, true));
    t.add("s_cbranch_scc0", Class::Branch, 0, |i, w, _| {
        w.need_scc()?;
        go(i, w, !w.scc)
    });
    t.add("s_cbranch_scc1", Class::Branch, 0, |i, w, _| {
        w.need_scc()?;
        go(i, w, w.scc)
    });
    t.add("s_cbranch_execz", Class::Branch, 0, |i, w, _| go(i, w, w.exec() == 0));
    t.add("s_cbranch_execnz", Class::Branch, 0, |i, w, _| go(i, w, w.exec() != 0));
    t.add("s_cbranch_vccz", Class::Branch, 0, |i, w, _| {
        need_vcc(w)?;
        go(i, w, w.vcc() == 0)
    });
    t.add("s_cbranch_vccnz", Class::Branch, 0, |i, w, _| {
        need_vcc(w)?;
        go(i, w, w.vcc() != 0)
    });

    t.add("s_getpc_b64", Class::Scalar, 1, |i, w, _| {
        set_pc(i, w);
        Ok(())
    });
    t.add("s_setpc_b64", Class::Branch, 0, |i, w, _| jump(i, w));
    t.add("s_swappc_b64", Class::Branch, 1, |i, w, _| {
        jump(i, w)?;
        set_pc(i, w);
        Ok(())
    });
    t.add("s_call_b64", Class::Branch, 1, |i, w, _| {
        set_pc(i, w);
        go(i, w, true)
    });
    for name in ["s_setpc_b64", "s_swappc_b64"] {
        t.after(name, After::Jump);
    }
    t.alias(&["s_get_pc_i64"], "s_getpc_b64");
    t.alias(&["s_set_pc_i64"], "s_setpc_b64");
    t.alias(&["s_swap_pc_i64"], "s_swappc_b64");
    t.alias(&["s_call_i64"], "s_call_b64");
}

#[inline(always)]
fn go(inst: &Inst, wave: &mut Wave, taken: bool) -> Done {
    if taken {
        wave.pc = inst.target;
    }
    Ok(())
}

fn need_vcc(wave: &Wave) -> Result<(), LaneFault> {
    wave.need_sgprs(VCC, wave.lanes as u32 / 32)
}

/// The address of the next instruction.
fn set_pc(inst: &Inst, wave: &mut Wave) {
    if let Operand::Sgpr(n) = inst.dst[0] {
        wave.set_sgpr64(n, wave.code.wrapping_add(inst.next));
    }
}

fn jump(inst: &Inst, wave: &mut Wave) -> Done {
    wave.need(inst.src[0], 2, 0)?;
    wave.jump = wave.scalar64(inst.src[0], false);
    Ok(())
}
