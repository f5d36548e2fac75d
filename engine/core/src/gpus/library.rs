//! Libraries that may be missing.

use libloading::Library;

/// Opens a library by name, as the system's loader finds it, or by path.
///
/// Errors: the loader's own words.
pub(super) fn open(name: &str) -> Result<Library, String> {
    // SAFETY: the initialisers of NVIDIA's libraries may run on any thread; nothing else is opened here.
    unsafe { Library::new(name) }.map_err(|error| reason(&error))
}

/// Why a library cannot be opened by this process, in the loader's words; none where it can.
pub fn library_problem(name: &str) -> Option<String> {
    open(name).err()
}

/// A function of a library, copied out of it: the caller keeps the library open for as long as it calls.
///
/// # Safety
/// `T` must be the function's type.
pub(super) unsafe fn symbol<T: Copy>(library: &Library, name: &str) -> Result<T, String> {
    // SAFETY: the caller's promise.
    unsafe { library.get::<T>(name) }.map(|found| *found).map_err(|error| reason(&error))
}

/// The loader's message; libloading's own names only what was tried.
fn reason(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loader_says_what_is_missing() {
        let problem = library_problem("libluthier-nowhere.so.1").expect("there is no such library");
        assert!(problem.contains("libluthier-nowhere.so.1"), "{problem}");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_library_that_is_there_opens_and_a_function_that_is_not_says_so() {
        assert_eq!(library_problem("libc.so.6"), None);
        let library = open("libc.so.6").expect("every Linux process has it");
        // SAFETY: it is not called.
        let missing = unsafe { symbol::<extern "C" fn()>(&library, "luthier_nothing") };
        assert!(missing.unwrap_err().contains("luthier_nothing"));
    }
}
