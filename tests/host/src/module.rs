//! The shipped module, loaded once for all hosts of a test binary.

use std::sync::{Arc, OnceLock};

use wasmi::{CompilationMode, Config, Engine, Linker, Module};

use crate::imports;
use crate::vm::VmData;

const VARIABLE: &str = "HOLDFAST_WASM";

/// A compiled module, its engine, and everything that it imports.
pub(crate) struct Loaded {
    pub(crate) engine: Engine,
    pub(crate) module: Module,
    pub(crate) linker: Linker<VmData>,
}

impl Loaded {
    /// Compiles a module; an error says what is wrong with it.
    pub(crate) fn new(bytes: &[u8]) -> Result<Self, String> {
        let mut config = Config::default();
        // Everything once, at the start: lazily, every VM of every test would wait for another's compilation.
        config.compilation_mode(CompilationMode::Eager);
        let engine = Engine::new(&config);
        let module = Module::new(&engine, bytes).map_err(|error| error.to_string())?;
        let linker = imports::linker(&engine, &module)?;
        Ok(Loaded { engine, module, linker })
    }
}

/// The shipped module.
pub(crate) fn shipped() -> Arc<Loaded> {
    static SHIPPED: OnceLock<Result<Arc<Loaded>, String>> = OnceLock::new();
    match SHIPPED.get_or_init(load) {
        Ok(shipped) => Arc::clone(shipped),
        Err(problem) => panic!("{problem}; run ./build.sh test, which builds the module and names it in {VARIABLE}"),
    }
}

/// The names of all that the shipped module exports, in order.
pub fn exports() -> Vec<String> {
    let mut names: Vec<String> = shipped().module.exports().map(|export| export.name().to_owned()).collect();
    names.sort();
    names
}

fn load() -> Result<Arc<Loaded>, String> {
    let path = std::env::var_os(VARIABLE).ok_or_else(|| format!("{VARIABLE} does not name the module"))?;
    let named = |problem: String| format!("{VARIABLE}={}: {problem}", path.display());
    let bytes = std::fs::read(&path).map_err(|error| named(error.to_string()))?;
    Ok(Arc::new(Loaded::new(&bytes).map_err(named)?))
}
