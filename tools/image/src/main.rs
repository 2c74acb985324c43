//! Packs `holdfast.wasm` into an OCI image, as a layout in a folder and as one archive. Equal modules give equal bytes.

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::{env, fs, io};

use holdfast_image::{Image, ImageError};

const USAGE: &str = "usage: holdfast-image MODULE LAYOUT_FOLDER ARCHIVE";

fn main() -> ExitCode {
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    let [module, layout, archive] = arguments.as_slice() else {
        return fail(USAGE);
    };
    match pack(Path::new(module), Path::new(layout), Path::new(archive)) {
        Ok(digest) => match writeln!(io::stdout(), "{digest}") {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&format!("standard output: {error}")),
        },
        Err(reason) => fail(&reason),
    }
}

/// Returns the digest of the image.
fn pack(module: &Path, layout: &Path, archive: &Path) -> Result<String, String> {
    let bytes = fs::read(module).map_err(at(module))?;
    let image = Image::of_module(&bytes).map_err(|error: ImageError| format!("{}: {error}", module.display()))?;
    image.write_layout(layout).map_err(at(layout))?;
    image.archive().and_then(|bytes| fs::write(archive, bytes)).map_err(at(archive))?;
    Ok(image.digest())
}

fn at(path: &Path) -> impl Fn(io::Error) -> String + '_ {
    move |error| format!("{}: {error}", path.display())
}

/// Says `reason`; there is nobody to tell where standard error is gone.
fn fail(reason: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "holdfast-image: {reason}");
    ExitCode::from(2)
}
