//! One GPU in use: its runtime, limits and kernels, and what is known of its health.

use std::env;
use std::ffi::{CString, c_int};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use hip_sys::hiprt::{hipCtx_t, hipFunction_t, hipModule_t};

use super::code_object::{self, CodeObject, CodeObjects};
use super::driver::{Api, Driver, Outcome, code};
use super::kernels::SIGNATURES;
use super::launch_log::{Launches, StreamId};
use super::limits::Limits;
use crate::device::DeviceChoice;
use crate::error::{GpuFailure, LaunchShape};
use crate::fork::Epoch;
use crate::{Error, Result};

/// A GPU in use. Callable from any thread: whoever calls the runtime calls [`enter`](Card::enter) first.
///
/// A GPU that is lost (see [`code::loses_device`]) refuses everything from then on with the failure that lost it.
#[derive(Debug)]
pub struct Card {
    driver: &'static Driver,
    index: c_int,
    /// The runtime's handle, and CUDA's context (null for HIP).
    handle: c_int,
    context: hipCtx_t,
    limits: Limits,
    objects: CodeObjects,
    /// One for each code object of which a kernel was needed.
    modules: Mutex<Vec<hipModule_t>>,
    /// By kernel id.
    kernels: Vec<OnceLock<LoadedKernel>>,
    lost: OnceLock<GpuFailure>,
    made: Epoch,
    pub(super) launches: Launches,
    blocking: bool,
}

/// A kernel ready to be launched.
#[derive(Clone, Copy, Debug)]
pub(super) struct LoadedKernel {
    pub function: hipFunction_t,
    /// Shared memory that every block has, whatever is asked for at the launch.
    pub static_shared: u64,
}

// SAFETY: the handles may be used from any thread on which the device is current, which `enter` sees to.
unsafe impl Send for Card {}
// SAFETY: as above; what changes lies behind OnceLock and Mutex.
unsafe impl Sync for Card {}

/// Limits of every GPU that the runtime shows, by index; an entry is an error where the runtime gives none.
pub fn all(driver: &Driver) -> Vec<Result<Limits>> {
    (0..driver.n_devices()).map(|index| Limits::read(driver, index)).collect()
}

/// Bytes free on the device now; 0 where the runtime does not tell.
pub fn memory_free(driver: &Driver, index: c_int) -> u64 {
    let api = driver.api();
    let Ok(handle) = driver.handle(index) else { return 0 };
    let Ok(context) = api.retain_context(handle) else { return 0 };
    let (mut free, mut total) = (0, 0);
    // SAFETY: the context is this device's and retained; writes two integers.
    let known = unsafe {
        api.set_current(handle, context).is_ok() && api.mem_get_info(&mut free, &mut total).is_ok()
    };
    api.release_context(handle);
    // a context that may be gone shall not stay the thread's
    // SAFETY: none is a valid choice.
    let _ = unsafe { api.set_current(handle, std::ptr::null_mut()) };
    if known { free as u64 } else { 0 }
}

/// The runtime's number of the GPU chosen, the first of several. Error::NoGpu: there is none such.
pub fn find(driver: &Driver, choice: &DeviceChoice) -> Result<c_int> {
    let first = find_all(driver, choice)?.first().copied();
    first.ok_or_else(|| Error::NoGpu("none is chosen".into()))
}

/// The runtime's numbers of the GPUs chosen, in the order of the choice; at least one. Error::NoGpu: one of them is
/// not there.
pub fn find_all(driver: &Driver, choice: &DeviceChoice) -> Result<Vec<c_int>> {
    let exact = |index: u32| {
        let count = driver.n_devices();
        c_int::try_from(index).ok().filter(|index| *index < count).ok_or_else(|| {
            Error::NoGpu(format!("number {index} asked for; {} shows {count}, from 0 on", driver.library()))
        })
    };
    match choice {
        DeviceChoice::Index(index) => return Ok(vec![exact(*index)?]),
        DeviceChoice::Indices(indices) => {
            let mut numbers: Vec<c_int> = Vec::new();
            for index in indices {
                let number = exact(*index)?;
                if numbers.contains(&number) {
                    return Err(Error::param(format!("GPU {index} is chosen twice")));
                }
                numbers.push(number);
            }
            if numbers.is_empty() {
                return Err(Error::param("no GPU is chosen"));
            }
            return Ok(numbers);
        }
        DeviceChoice::Best | DeviceChoice::Name(_) | DeviceChoice::All => {}
    }
    let mut readable = Vec::new();
    let mut unreadable = None;
    for (index, limits) in all(driver).into_iter().enumerate() {
        match limits {
            Ok(limits) => readable.push((index as c_int, limits)),
            Err(error) => unreadable = unreadable.or(Some(error)),
        }
    }
    let has_kernels = |(index, l): &(c_int, Limits)| code_object::for_arch(*index, &l.arch_full).is_ok();
    let cards: Vec<_> = readable.iter().map(|card| (card.0, &card.1, has_kernels(card))).collect();
    let found = choose(&cards, choice);
    if !found.is_empty() {
        return Ok(found);
    }
    if let (true, Some(error)) = (readable.is_empty(), unreadable) {
        return Err(error);
    }
    let names: Vec<_> = readable.iter().map(|(i, l)| format!("{i}: {} ({})", l.name, l.arch)).collect();
    Err(Error::NoGpu(format!("none is as asked for, {choice:?}; there are {}", names.join(", "))))
}

/// `cards` with whether there are kernels for each; where there are for none, the one that is best otherwise.
fn choose(cards: &[(c_int, &Limits, bool)], choice: &DeviceChoice) -> Vec<c_int> {
    let is_meant = |(_, l, _): &&(c_int, &Limits, bool)| match choice {
        DeviceChoice::Name(part) => {
            format!("{}\n{}", l.name, l.arch_full).to_lowercase().contains(&part.to_lowercase())
        }
        _ => true,
    };
    // max_by_key takes the last of equals; here the first shall win
    let meant = cards.iter().rev().filter(is_meant);
    let Some(best) = meant.max_by_key(|(_, l, kernels)| (*kernels, !l.integrated, l.memory_total)) else {
        return Vec::new();
    };
    match choice {
        DeviceChoice::All => {
            let alike = cards.iter().filter(|(_, l, kernels)| *kernels && l.integrated == best.1.integrated);
            let all: Vec<_> = alike.map(|(index, ..)| *index).collect();
            if all.is_empty() { vec![best.0] } else { all }
        }
        _ => vec![best.0],
    }
}

impl Card {
    /// Takes a GPU of the process's runtime into use. Its kernels are loaded when they are needed.
    ///
    /// Errors: those of [`Driver::get`]; Error::NoGpu, there is none such; Error::NoKernels and Error::Kernels;
    /// Error::Gpu, the runtime refused.
    pub fn open(choice: &DeviceChoice) -> Result<Arc<Card>> {
        let driver = Driver::get()?;
        Card::new(driver, find(driver, choice)?)
    }

    /// The same for the GPU with that number of a runtime.
    pub fn new(driver: &'static Driver, index: i32) -> Result<Arc<Card>> {
        let limits = Limits::read(driver, index)?;
        let objects = code_object::for_arch(index, &limits.arch_full)?;
        let mut card = Card {
            driver,
            index,
            handle: 0,
            context: std::ptr::null_mut(),
            limits,
            objects,
            modules: Mutex::default(),
            kernels: SIGNATURES.iter().map(|_| OnceLock::new()).collect(),
            lost: OnceLock::new(),
            made: Epoch::now(),
            launches: Launches::default(),
            blocking: is_set("HIP_LAUNCH_BLOCKING"),
        };
        card.handle = driver.handle(index).map_err(|outcome| card.failed(outcome, None, ""))?;
        card.context =
            driver.api().retain_context(card.handle).map_err(|outcome| card.failed(outcome, None, ""))?;
        card.enter()?;
        tracing::info!(device = index, name = card.limits.name, kernels = card.objects.arch, "GPU ready");
        Ok(Arc::new(card))
    }

    /// Makes the GPU the calling thread's; to be called before calls into the runtime, by every function that may be
    /// a thread's first. Error::DeviceLost: it is lost, nothing was called. Error::Forked: it stayed in the parent process,
    /// nothing was called (a call may go on in a child, from a callback that forked).
    #[inline]
    pub fn enter(&self) -> Result<()> {
        if let Some(failure) = self.lost.get() {
            return Err(Error::DeviceLost { device: self.index, failure: Box::new(failure.clone()) });
        }
        self.made.check("backend")?;
        // SAFETY: the context was retained for this device and is released when the card goes.
        self.check(unsafe { self.driver.api().set_current(self.handle, self.context) })
    }

    pub fn api(&self) -> &'static Api {
        self.driver.api()
    }

    pub fn driver(&self) -> &'static Driver {
        self.driver
    }

    /// The runtime's number of it.
    pub fn index(&self) -> i32 {
        self.index
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Bytes of its memory free and in all, now.
    pub fn memory(&self) -> Result<(u64, u64)> {
        self.enter()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: writes two integers.
        self.check(unsafe { self.api().mem_get_info(&mut free, &mut total) })?;
        Ok((free as u64, total as u64))
    }

    /// Whether every launch waits for its kernel: HIP_LAUNCH_BLOCKING is set to other than 0. Nothing can be
    /// captured then.
    pub fn launches_are_blocking(&self) -> bool {
        self.blocking
    }

    /// Whether it refuses everything, and why.
    pub fn lost(&self) -> Option<&GpuFailure> {
        self.lost.get()
    }

    /// Makes kernels (by their ids) ready to be launched, so that what is wrong with them is known beforehand.
    ///
    /// Errors: those of [`CodeObjects::open`]; Error::Gpu, the runtime refused.
    pub fn load(&self, kernels: impl IntoIterator<Item = usize>) -> Result<()> {
        self.enter()?;
        kernels.into_iter().try_for_each(|id| self.kernel(id).map(drop))
    }

    /// The kernel of that id, whose code object is loaded now if nobody has needed it yet. The GPU is the thread's.
    #[inline]
    pub(super) fn kernel(&self, id: usize) -> Result<LoadedKernel> {
        match self.kernels[id].get() {
            Some(kernel) => Ok(*kernel),
            None => self.load_unit(id),
        }
    }

    #[cold]
    fn load_unit(&self, id: usize) -> Result<LoadedKernel> {
        let mut modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        let name = SIGNATURES[id].name;
        if self.kernels[id].get().is_none() {
            let object = self.objects.open(name)?;
            modules.push(self.load_object(&object)?);
        }
        // `open` gives an object that has the kernel
        let missing = || Error::Internal(format!("{name} was not loaded on device {}", self.index));
        self.kernels[id].get().copied().ok_or_else(missing)
    }

    /// Loads a code object and finds every kernel in it.
    fn load_object(&self, object: &CodeObject) -> Result<hipModule_t> {
        let origin = match &object.path {
            Some(path) => path.display().to_string(),
            None => format!("{} for {}", object.unit, object.arch),
        };
        let api = self.driver.api();
        let mut module = std::ptr::null_mut();
        // SAFETY: a whole code object, checked by `open`; the device is the thread's.
        let (outcome, log) = unsafe { api.module_load_logged(&mut module, &object.bytes) };
        if !outcome.is_ok() {
            let detail = format!("loading the kernels of {origin} {log}");
            return Err(self.failed(outcome, None, detail.trim()));
        }
        let found = self.find_kernels(object, module, &origin);
        if found.is_err() {
            // SAFETY: loaded above, and nobody has a function of it.
            self.release(|api| unsafe { api.module_unload(module) });
        }
        let found = found?;
        tracing::debug!(device = self.index, kernels = origin, "loaded");
        for (id, kernel) in found {
            // the lock on the modules is held: nobody else sets it
            let _ = self.kernels[id].set(kernel);
        }
        Ok(module)
    }

    fn find_kernels(
        &self,
        object: &CodeObject,
        module: hipModule_t,
        origin: &str,
    ) -> Result<Vec<(usize, LoadedKernel)>> {
        let mut found = Vec::new();
        for (id, signature) in SIGNATURES.iter().enumerate() {
            let Some(info) = object.kernel(signature.name) else { continue };
            let mut function = std::ptr::null_mut();
            let name = CString::new(signature.name).map_err(|e| Error::Internal(e.to_string()))?;
            // SAFETY: a loaded module and a NUL-terminated name.
            let outcome =
                unsafe { self.driver.api().module_get_function(&mut function, module, name.as_ptr()) };
            if !outcome.is_ok() {
                return Err(self.failed(outcome, None, &format!("kernel {} of {origin}", signature.name)));
            }
            found.push((id, LoadedKernel { function, static_shared: info.lds_bytes }));
        }
        Ok(found)
    }

    /// What a call came to: Error::Gpu; Error::OutOfMemory if that is what the runtime says; Error::DeviceLost if
    /// nothing can be called any more.
    #[inline]
    pub fn check(&self, outcome: Outcome) -> Result<()> {
        match outcome.code {
            code::SUCCESS => Ok(()),
            // a fault of some launch before comes up in whatever call is next
            code if code::loses_device(code) => Err(self.fault(outcome)),
            _ => Err(self.failed(outcome, None, "")),
        }
    }

    /// The same for a call that waited until all work of `stream` was done: on success its launches up to now are known
    /// to be good.
    pub fn check_waited(&self, outcome: Outcome, stream: StreamId) -> Result<()> {
        if outcome.is_ok() {
            self.launches.forget(stream);
            return Ok(());
        }
        Err(self.fault(outcome))
    }

    /// The error of a call that failed for what was launched before it.
    #[cold]
    fn fault(&self, outcome: Outcome) -> Error {
        let (last, text) = self.launches.report();
        self.failed(outcome, last, &text)
    }

    /// Frees something: for `drop`, where nothing can be reported. Nothing is called on a lost GPU.
    pub fn release(&self, call: impl FnOnce(&Api) -> Outcome) {
        if self.enter().is_err() {
            return;
        }
        if let Err(error) = self.check(call(self.api())) {
            tracing::warn!("{error}");
        }
    }

    /// The error of a failed call.
    #[cold]
    pub(super) fn failed(&self, outcome: Outcome, launch: Option<LaunchShape>, detail: &str) -> Error {
        if outcome.code == code::OUT_OF_MEMORY {
            // of the host or of the device, and how much of it: the runtime does not tell
            let mut what = format!("{} on device {} ({})", outcome.call, self.index, self.limits.arch);
            let parts = [launch.map(|launch| launch.to_string()).unwrap_or_default(), detail.to_owned()];
            for part in parts.iter().filter(|part| !part.is_empty()) {
                what.push_str("; ");
                what.push_str(part);
            }
            return Error::OutOfMemory { what, wanted: 0, free: 0, total: 0 };
        }
        let failure = GpuFailure {
            call: outcome.call,
            code: outcome.code,
            name: self.driver.api().error_name(outcome.code),
            device: self.index,
            arch: self.limits.arch.clone(),
            launch,
            detail: detail.to_owned(),
        };
        if code::loses_device(outcome.code) {
            // The first failure is the one that tells.
            let failure = Box::new(self.lost.get_or_init(|| failure).clone());
            Error::DeviceLost { device: self.index, failure }
        } else {
            Error::Gpu(Box::new(failure))
        }
    }
}

impl Drop for Card {
    fn drop(&mut self) {
        let modules = std::mem::take(self.modules.get_mut().unwrap_or_else(PoisonError::into_inner));
        for module in modules {
            // SAFETY: loaded by `load_object`, and whoever launches its kernels holds the card.
            self.release(|api| unsafe { api.module_unload(module) });
        }
        if !self.context.is_null() {
            self.driver.api().release_context(self.handle);
        }
    }
}

/// An environment variable that is there and neither empty nor 0.
fn is_set(name: &str) -> bool {
    env::var_os(name).is_some_and(|value| !value.is_empty() && value != "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(index: c_int, name: &str, arch: &str, gib: u64, integrated: bool) -> (c_int, Limits) {
        let (name, arch, memory_total) = (name.into(), arch.to_owned(), gib << 30);
        (index, Limits { name, arch_full: arch.clone(), arch, memory_total, integrated, ..Limits::default() })
    }

    #[test]
    fn the_discrete_card_with_most_memory_is_chosen() {
        let cards = [
            card(0, "AMD Radeon Graphics", "gfx1103", 96, true),
            card(1, "AMD Radeon RX 7900 XTX", "gfx1100", 24, false),
            card(2, "AMD Radeon RX 7900 XT", "gfx1100", 20, false),
            card(3, "AMD Radeon RX 7900 XTX", "gfx1100", 24, false),
        ];
        let cards = cards.iter().map(|(index, limits)| (*index, limits, true)).collect::<Vec<_>>();
        let named = |name: &str| choose(&cards, &DeviceChoice::Name(name.into()));
        assert_eq!(choose(&cards, &DeviceChoice::Best), [1]);
        assert_eq!(choose(&cards[..1], &DeviceChoice::Best), [0]);
        assert_eq!(named("7900 xt"), [1]);
        assert_eq!(named("gfx1103"), [0]);
        assert_eq!(named("graphics"), [0]);
        assert!(named("MI300X").is_empty());
        assert_eq!(choose(&cards, &DeviceChoice::All), [1, 2, 3]);
        assert_eq!(choose(&cards[..1], &DeviceChoice::All), [0]);
    }

    #[test]
    fn a_card_with_kernels_comes_before_a_larger_one_without() {
        let cards = [
            card(0, "AMD Radeon RX 480", "gfx803", 64, false),
            card(1, "AMD Radeon Graphics", "gfx1103", 16, true),
        ];
        let with = |kernels: [bool; 2]| {
            cards.iter().zip(kernels).map(|((index, l), k)| (*index, l, k)).collect::<Vec<_>>()
        };
        assert_eq!(choose(&with([false, true]), &DeviceChoice::Best), [1]);
        assert_eq!(choose(&with([false, true]), &DeviceChoice::All), [1]);
        // none has any: the error is to be about the best
        assert_eq!(choose(&with([false, false]), &DeviceChoice::Best), [0]);
        assert_eq!(choose(&with([false, false]), &DeviceChoice::All), [0]);
        assert_eq!(choose(&with([true, true]), &DeviceChoice::All), [0]);
    }
}
