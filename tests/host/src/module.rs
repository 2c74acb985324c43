//! The shipped module, loaded once for all hosts of a test binary.

use std::sync::OnceLock;

use wasmi::{CompilationMode, Config, Engine, Linker, Module};

use crate::imports;
use crate::vm::VmData;

const VARIABLE: &str = "HOLDFAST_WASM";

/// The compiled module, its engine, and everything that it imports.
pub(crate) struct Shipped {
    pub(crate) engine: Engine,
    pub(crate) module: Module,
    pub(crate) linker: Linker<VmData>,
}

/// The shipped module.
pub(crate) fn shipped() -> &'static Shipped {
    static SHIPPED: OnceLock<Result<Shipped, String>> = OnceLock::new();
    match SHIPPED.get_or_init(load) {
        Ok(shipped) => shipped,
        Err(problem) => panic!("{problem}; run ./build.sh test, which builds the module and names it in {VARIABLE}"),
    }
}

fn load() -> Result<Shipped, String> {
    let path = std::env::var_os(VARIABLE).ok_or_else(|| format!("{VARIABLE} does not name the module"))?;
    let bytes = std::fs::read(&path).map_err(|error| format!("{VARIABLE}={}: {error}", path.display()))?;
    let mut config = Config::default();
    // Everything once, at the start: lazily, every VM of every test would wait for another's compilation.
    config.compilation_mode(CompilationMode::Eager);
    let engine = Engine::new(&config);
    let module = Module::new(&engine, bytes).map_err(|error| format!("{VARIABLE}={}: {error}", path.display()))?;
    let linker = imports::linker(&engine, &module)?;
    Ok(Shipped { engine, module, linker })
}
