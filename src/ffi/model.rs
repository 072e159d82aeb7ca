//! rf_model: a loaded GGUF file, ready to run on its backend.

#![allow(non_camel_case_types)]

use std::ffi::{CString, c_char, c_void};
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

use super::args::{self, Out, c_text};
use super::backend::rf_backend;
use super::failure::{Failure, Outcome, c_string, long_c_string};
use super::guard::{always, guard, outside};
use super::handle::{self, Handle};
use super::log::Log;
use super::sized::{self, Sized};
use super::status::{RF_NOT_FOUND, rf_status};
use super::token::{RF_TOKEN_NONE, rf_token};
use crate::engine::{CpuExperts, GpuLayers, Model, ModelParams};
use crate::gguf::{Short, TensorInfo, TensorType};
use crate::memory;

/// A loaded model. It never changes: callable from many threads at once. Keeps its backend alive.
pub struct rf_model {
    pub(super) model: Model,
    pub(super) log: Log,
    arch: CString,
    name: CString,
    file_type: CString,
    has_chat_template: bool,
    /// NUL-terminated copies of the file's names, made when first asked for.
    tensor_names: OnceLock<Vec<CString>>,
    pub(super) meta_keys: OnceLock<Vec<CString>>,
}

impl Handle for rf_model {
    const NAME: &'static str = "rf_model";
}

/// Takes the progress of a load: bytes done, and bytes in all. Return 0 to go on, anything else to stop. It runs on the
/// thread that called rf_model_load, and must not unwind.
pub type rf_progress_callback =
    Option<unsafe extern "C-unwind" fn(user: *mut c_void, done: u64, total: u64) -> i32>;

/// How to load a model. Fill it with rf_model_params_init first.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct rf_model_params {
    /// sizeof(rf_model_params), set by rf_model_params_init.
    pub size: usize,
    /// Called during the load, with `progress_user`; NULL (default): not called.
    pub progress: rf_progress_callback,
    pub progress_user: *mut c_void,
    /// How much of the model goes on the backend's GPUs: RF_GPU_LAYERS_AUTO (0, default), RF_GPU_LAYERS_ALL,
    /// RF_GPU_LAYERS_NONE, or the last so many layers (more than there are: as RF_GPU_LAYERS_ALL). The CPU computes the
    /// rest. Means nothing where the backend has no GPU.
    pub gpu_layers: i32,
    /// The context that room on GPUs is planned for: n_ctx and n_batch of rf_context_params, with the same defaults
    /// for 0. A larger one may be made, and is RF_ERROR_MEMORY where it does not fit.
    pub n_ctx: u32,
    pub n_batch: u32,
    /// Of how many layers on GPUs the CPU computes the experts, whose weights then take no memory of a GPU:
    /// RF_CPU_EXPERTS_AUTO (0, default), RF_CPU_EXPERTS_ALL, RF_CPU_EXPERTS_NONE, or the model's first so many layers that
    /// have experts (more than there are: as RF_CPU_EXPERTS_ALL). Means nothing where the backend has no GPU or the model no
    /// experts.
    pub cpu_experts: i32,
}

/// As much as the GPUs' free memory holds of weights, cache and scratch, less a margin: a twentieth, but 32 to 512 MiB.
pub const RF_GPU_LAYERS_AUTO: i32 = 0;
/// All layers and the output, or RF_ERROR_MEMORY.
pub const RF_GPU_LAYERS_ALL: i32 = -1;
/// Nothing.
pub const RF_GPU_LAYERS_NONE: i32 = -2;

/// With RF_GPU_LAYERS_AUTO as few as there must be for the rest to fit on the GPUs, where that leaves the CPU fewer bytes
/// a token to read than whole layers would; else none.
pub const RF_CPU_EXPERTS_AUTO: i32 = 0;
/// Those of all layers.
pub const RF_CPU_EXPERTS_ALL: i32 = -1;
/// Those of no layer.
pub const RF_CPU_EXPERTS_NONE: i32 = -2;

fn cpu_experts_of(number: i32) -> Outcome<CpuExperts> {
    match number {
        RF_CPU_EXPERTS_AUTO => Ok(CpuExperts::Auto),
        RF_CPU_EXPERTS_ALL => Ok(CpuExperts::First(usize::MAX)),
        RF_CPU_EXPERTS_NONE => Ok(CpuExperts::First(0)),
        n => usize::try_from(n).map(CpuExperts::First).map_err(|_| {
            Failure::param(format!(
                "cpu_experts is {n}; below 1 there are RF_CPU_EXPERTS_AUTO (0), RF_CPU_EXPERTS_ALL (-1), \
                 RF_CPU_EXPERTS_NONE (-2)"
            ))
        }),
    }
}

fn gpu_layers_of(number: i32) -> Outcome<GpuLayers> {
    match number {
        RF_GPU_LAYERS_AUTO => Ok(GpuLayers::Auto),
        RF_GPU_LAYERS_ALL => Ok(GpuLayers::All),
        RF_GPU_LAYERS_NONE => Ok(GpuLayers::Last(0)),
        n => usize::try_from(n).map(GpuLayers::Last).map_err(|_| {
            Failure::param(format!(
                "gpu_layers is {n}; below 1 there are RF_GPU_LAYERS_AUTO (0), RF_GPU_LAYERS_ALL (-1), \
                 RF_GPU_LAYERS_NONE (-2)"
            ))
        }),
    }
}

// SAFETY: repr(C), `size` first, null pointers are valid.
unsafe impl Sized for rf_model_params {
    const NAME: &'static str = "rf_model_params";
}

/// Fills `params` (of `size` = sizeof *params bytes) with defaults. RF_ERROR_PARAM: NULL, or `size` makes no sense.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_model_params_init(params: *mut rf_model_params, size: usize) -> rf_status {
    guard(|| {
        let default = rf_model_params {
            size,
            progress: None,
            progress_user: std::ptr::null_mut(),
            gpu_layers: RF_GPU_LAYERS_AUTO,
            n_ctx: 0,
            n_batch: 0,
            cpu_experts: RF_CPU_EXPERTS_AUTO,
        };
        // SAFETY: the caller passes NULL or `size` writable bytes.
        unsafe { sized::init(params, size, default) }
    })
}

/// Loads a GGUF file; of a split model, its first part. On RF_OK *model is a new handle, to be given to
/// rf_model_release. The file stays mapped: it must not be changed while the model lives. Any thread.
///
/// A file of a vocabulary alone, without a tensor, gives a model for text: all that takes a model works but
/// rf_context_create, which comes to RF_ERROR_MODEL.
///
/// RF_CANCELLED: the progress callback said stop. RF_ERROR_IO: the file cannot be opened or read. RF_ERROR_FORMAT: it is
/// damaged; the message names field and offset. RF_ERROR_MODEL: keys or tensors are missing or do not fit.
/// RF_ERROR_UNSUPPORTED: an unknown architecture, type or tokenizer. RF_ERROR_MEMORY: it does not fit, or the GPUs do not
/// hold the layers asked for. RF_ERROR_PARAM: a NULL, a wrong size, numbers out of range. On a GPU also RF_ERROR_GPU and
/// RF_ERROR_DEVICE_LOST.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_model_load(
    backend: *const rf_backend,
    path: *const c_char,
    params: *const rf_model_params,
    model: *mut *mut rf_model,
) -> rf_status {
    guard(|| {
        // SAFETY: the caller passes NULL or valid pointers, and NUL-terminated text.
        let (backend, path, params, out) = unsafe {
            (
                handle::share(backend)?,
                args::path(path, "path")?,
                sized::read(params)?,
                Out::new(model, "model")?,
            )
        };
        let _log = backend.log.enter();
        let mut progress = |done, total| match params.progress {
            None => true,
            // SAFETY: the host's callback, with the arguments it was declared with.
            Some(callback) => outside(|| unsafe { callback(params.progress_user, done, total) }) == 0,
        };
        let params = ModelParams {
            progress: Some(&mut progress),
            gpu_layers: gpu_layers_of(params.gpu_layers)?,
            cpu_experts: cpu_experts_of(params.cpu_experts)?,
            n_ctx: params.n_ctx as usize,
            n_batch: params.n_batch as usize,
        };
        let model = Model::load(&backend.backend, path, params)?;
        let (file_type, arch) = (c_string(model.file_type()), c_string(model.config().arch.as_str()));
        out.set(handle::into_raw(rf_model {
            log: backend.log,
            arch,
            name: long_c_string(model.name(), "the model's name")?,
            file_type,
            has_chat_template: !matches!(model.chat_template(), Ok(None)),
            tensor_names: OnceLock::new(),
            meta_keys: OnceLock::new(),
            model,
        })?);
        Ok(())
    })
}

/// What there is to know of a model.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct rf_model_details {
    /// sizeof(rf_model_details), set by the caller.
    pub size: usize,
    /// The architecture, "llama". Valid as long as the model.
    pub arch: *const c_char,
    /// The file's general.name, or "". Valid as long as the model.
    pub name: *const c_char,
    /// How the file is quantized, "Q4_K - Medium". Valid as long as the model.
    pub file_type: *const c_char,
    /// Parameters (weights), counted.
    pub n_params: u64,
    /// Bytes of the file, all parts.
    pub file_bytes: u64,
    /// Bytes of weights held in memory beside the mapped file, on all devices.
    pub weight_bytes: u64,
    /// Tokens in the vocabulary: the length of a row of logits.
    pub n_vocab: u32,
    /// Positions the model was trained on.
    pub n_ctx_train: u32,
    /// Width of the residual stream.
    pub n_embd: u32,
    pub n_layer: u32,
    pub n_head: u32,
    pub n_head_kv: u32,
    pub head_dim: u32,
    /// The tokens that begin and end a text; RF_TOKEN_NONE where the file names none. More tokens may end a
    /// generation: see is_eog of rf_token_info.
    pub bos: rf_token,
    pub eos: rf_token,
    /// 1 if RF_TOKENIZE_ADD_SPECIAL puts them there, else 0.
    pub add_bos: i32,
    pub add_eos: i32,
    /// 1 if the file has a chat template (rf_chat_apply), else 0.
    pub has_chat_template: i32,
    /// How long the load took, in all, microseconds.
    pub load_us: u64,
    /// Layers that GPUs compute, up to n_layer; one more: the output too.
    pub n_gpu_layers: u32,
    /// Of these so many whose experts the CPU computes.
    pub n_cpu_experts: u32,
}

// SAFETY: repr(C), `size` first, zeros and null pointers are valid.
unsafe impl Sized for rf_model_details {
    const NAME: &'static str = "rf_model_details";
}

/// Describes the model. Set info->size first. RF_ERROR_PARAM: a NULL or a wrong size. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_model_info(model: *const rf_model, info: *mut rf_model_details) -> rf_status {
    guard(|| {
        // SAFETY: the caller passes NULL or valid pointers.
        let (model, out) = unsafe { (handle::share(model)?, sized::Out::new(info)?) };
        let info = model.model.info();
        let vocab = model.model.vocab();
        let times = model.model.load_times();
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let token = |id: Option<u32>| id.map_or(RF_TOKEN_NONE, |id| id as rf_token);
        out.set(rf_model_details {
            size: 0,
            arch: model.arch.as_ptr(),
            name: model.name.as_ptr(),
            file_type: model.file_type.as_ptr(),
            n_params: info.n_params,
            file_bytes: info.file_bytes,
            weight_bytes: info.weight_bytes,
            n_vocab: count(info.n_vocab),
            n_ctx_train: count(info.n_ctx_train),
            n_embd: count(info.n_embd),
            n_layer: count(info.n_layer),
            n_head: count(info.n_head),
            n_head_kv: count(info.n_head_kv),
            head_dim: count(info.head_dim),
            bos: token(vocab.bos()),
            eos: token(vocab.eos()),
            add_bos: vocab.add_bos().into(),
            add_eos: vocab.add_eos().into(),
            has_chat_template: model.has_chat_template.into(),
            load_us: (times.file + times.text + times.plan + times.weights).as_micros() as u64,
            n_gpu_layers: count(model.model.placement().n_gpu_layers()),
            n_cpu_experts: count(model.model.placement().cpu_experts),
        });
        Ok(())
    })
}

/// One tensor of the file.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct rf_tensor_details {
    /// sizeof(rf_tensor_details), set by the caller.
    pub size: usize,
    /// "blk.0.attn_q.weight". Valid as long as the model.
    pub name: *const c_char,
    /// The element type, "Q4_K". Static.
    pub type_name: *const c_char,
    /// The element type's number in GGUF files.
    pub type_id: u32,
    pub n_dims: u32,
    /// `dims[0]` is the length of a row (the fastest dimension); those the tensor lacks are 1.
    pub dims: [u64; 4],
    /// Bytes of data.
    pub bytes: u64,
}

// SAFETY: repr(C), `size` first, zeros and null pointers are valid.
unsafe impl Sized for rf_tensor_details {
    const NAME: &'static str = "rf_tensor_details";
}

impl rf_model {
    fn tensor_details(&self, index: usize, tensor: &TensorInfo) -> Outcome<rf_tensor_details> {
        let names = self.model.file().tensors().iter().map(|tensor| tensor.name.as_str());
        Ok(rf_tensor_details {
            size: 0,
            name: copies(&self.tensor_names, names, "the tensors' names")?[index].as_ptr(),
            type_name: type_name(tensor.ty),
            type_id: tensor.ty as u32,
            n_dims: tensor.n_dims as u32,
            dims: tensor.dims,
            bytes: tensor.bytes,
        })
    }
}

/// What `kept` holds, made when first asked for; of two threads that come at once one throws its own away.
pub(super) fn copies<'a, 'b>(
    kept: &'a OnceLock<Vec<CString>>,
    names: impl Iterator<Item = &'b str>,
    what: &str,
) -> Outcome<&'a [CString]> {
    if let Some(names) = kept.get() {
        return Ok(names);
    }
    let names = memory::try_collect(names.map(|name| long_c_string(name, what)), what)?;
    Ok(kept.get_or_init(|| names))
}

/// The name of an element type as C takes it. Types are few and fixed: each copy is made once and kept, without a lock
/// that a fork could leave held.
fn type_name(ty: TensorType) -> *const c_char {
    static NAMES: [AtomicPtr<c_char>; 256] = [const { AtomicPtr::new(ptr::null_mut()) }; 256];
    let Some(slot) = NAMES.get(ty as usize) else { return c"".as_ptr() };
    let known = slot.load(Ordering::Acquire);
    if !known.is_null() {
        return known;
    }
    let name = c_string(ty.name()).into_raw();
    match slot.compare_exchange(ptr::null_mut(), name, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => name,
        Err(first) => {
            // SAFETY: made by `into_raw` above and known to nobody else.
            drop(unsafe { CString::from_raw(name) });
            first
        }
    }
}

/// How many tensors the file has. RF_ERROR_PARAM: a NULL. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_model_tensor_count(model: *const rf_model, n: *mut usize) -> rf_status {
    guard(|| {
        // SAFETY: the caller passes NULL or valid pointers.
        let (model, out) = unsafe { (handle::share(model)?, Out::new(n, "n")?) };
        out.set(model.model.file().tensors().len());
        Ok(())
    })
}

/// Describes tensor `index`, from 0, in file order. Set info->size first.
/// RF_ERROR_PARAM: an index beyond the last, a NULL or a wrong size. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_model_tensor_at(
    model: *const rf_model,
    index: usize,
    info: *mut rf_tensor_details,
) -> rf_status {
    guard(|| {
        // SAFETY: the caller passes NULL or valid pointers.
        let (model, out) = unsafe { (handle::share(model)?, sized::Out::new(info)?) };
        let tensors = model.model.file().tensors();
        let tensor = tensors
            .get(index)
            .ok_or_else(|| Failure::param(format!("tensor {index} of {}", tensors.len())))?;
        out.set(model.tensor_details(index, tensor)?);
        Ok(())
    })
}

/// Finds a tensor by name. RF_NOT_FOUND: there is none; *index is untouched. RF_ERROR_PARAM: a NULL, or the name is not
/// UTF-8. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_model_tensor_find(
    model: *const rf_model,
    name: *const c_char,
    index: *mut usize,
) -> rf_status {
    guard(|| {
        // SAFETY: the caller passes NULL or valid pointers, and NUL-terminated text.
        let (model, name, out) =
            unsafe { (handle::share(model)?, c_text(name, "name")?, Out::new(index, "index")?) };
        out.set(found(model.model.file().tensors().iter().position(|t| t.name == name), "tensor", name)?);
        Ok(())
    })
}

pub(super) fn found(index: Option<usize>, what: &str, name: &str) -> Outcome<usize> {
    index.ok_or_else(|| Failure::new(RF_NOT_FOUND, format!("the model has no {what} '{}'", Short(name))))
}

/// Gives the handle back; NULL is fine. Contexts made from it stay usable; pointers that the model owned do not.
/// Any thread, once; no other call may be using the handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rf_model_release(model: *mut rf_model) {
    always(|| {
        // SAFETY: the caller passes NULL or a handle that it does not use again.
        unsafe { handle::release(model) };
        Ok(())
    });
}
