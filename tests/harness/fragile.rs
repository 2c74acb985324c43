//! A copy of the module that fails when it is told to, so that tests see what a crash leaves behind.
//!
//! The copy's callback for request headers begins with a look at their number, which Envoy gives as an argument: too many
//! end the VM by the instruction `unreachable`, as a panic of the module would.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::Request;

use crate::{Client, with_header};

/// So many headers end the VM. Envoy takes up to 100 with its defaults.
const FATAL: u8 = 80;

const CALLBACK: &[u8] = b"proxy_on_request_headers";

/// A request that ends the VM of a [`fragile`](crate::EnvoyOptions::fragile) module that gets it.
#[must_use]
pub fn fatal_request(path: &str) -> Request<Bytes> {
    (0..FATAL).fold(Client::request(path), |request, number| with_header(request, &format!("x-fatal-{number}"), "1"))
}

/// Writes the copy into this directory.
///
/// # Errors
/// When the module cannot be read, or is not one that Envoy would call.
pub(crate) fn make_fragile(module: &Path, dir: &Path) -> io::Result<PathBuf> {
    let copy = dir.join("fragile.wasm");
    let broken = || io::Error::new(io::ErrorKind::InvalidData, "not a module that looks at request headers");
    fs::write(&copy, fragile(&fs::read(module)?).ok_or_else(broken)?)?;
    Ok(copy)
}

// Sections of the WebAssembly binary format, and the kind of an import or export that is a function.
const IMPORTS: u8 = 2;
const FUNCTIONS: u8 = 3;
const EXPORTS: u8 = 7;
const CODE: u8 = 10;
const FUNCTION: u8 = 0;

/// The module with a function put before the callback.
fn fragile(module: &[u8]) -> Option<Vec<u8>> {
    let (header, mut rest) = module.split_at_checked(8)?;
    let mut sections = Vec::new();
    while !rest.is_empty() {
        let id = byte(&mut rest)?;
        let size = number(&mut rest)?;
        sections.push((id, take(&mut rest, size)?));
    }
    let find = |wanted| sections.iter().find(|(id, _)| *id == wanted).map(|(_, content)| *content);
    let imported = imported_functions(find(IMPORTS)?)?;
    let types = types(find(FUNCTIONS)?)?;
    let added = imported + types.len();
    let (exports, callback) = exports_with(find(EXPORTS)?, added)?;
    let kind = *types.get(callback.checked_sub(imported)?)?;

    let mut fragile = header.to_vec();
    for (id, content) in &sections {
        let changed = match *id {
            FUNCTIONS => with_one_more(content, &leb(kind))?,
            EXPORTS => exports.clone(),
            CODE => with_one_more(content, &guard(callback))?,
            _ => content.to_vec(),
        };
        fragile.push(*id);
        fragile.extend(leb(changed.len()));
        fragile.extend(changed);
    }
    Some(fragile)
}

/// The body of the function: no locals; ends the VM if the second argument is large, else calls the callback with its
/// three arguments.
fn guard(callback: usize) -> Vec<u8> {
    // Constants are signed: a byte more keeps the seventh bit from being taken for the sign.
    let mut body = vec![0, 0x20, 1, 0x41, FATAL | 0x80, 0, 0x4f, 0x04, 0x40, 0x00, 0x0b];
    body.extend([0x20, 0, 0x20, 1, 0x20, 2, 0x10]);
    body.extend(leb(callback));
    body.push(0x0b);
    let mut sized = leb(body.len());
    sized.append(&mut body);
    sized
}

fn imported_functions(mut section: &[u8]) -> Option<usize> {
    let count = number(&mut section)?;
    let mut functions = 0;
    for _ in 0..count {
        for _ in 0..2 {
            let size = number(&mut section)?;
            take(&mut section, size)?;
        }
        // The module imports nothing but functions.
        if byte(&mut section)? != FUNCTION {
            return None;
        }
        number(&mut section)?;
        functions += 1;
    }
    Some(functions)
}

fn types(mut section: &[u8]) -> Option<Vec<usize>> {
    let count = number(&mut section)?;
    (0..count).map(|_| number(&mut section)).collect()
}

/// The exports with this function in the place of the callback, and the callback.
fn exports_with(mut section: &[u8], added: usize) -> Option<(Vec<u8>, usize)> {
    let count = number(&mut section)?;
    let mut exports = leb(count);
    let mut callback = None;
    for _ in 0..count {
        let size = number(&mut section)?;
        let name = take(&mut section, size)?;
        let kind = byte(&mut section)?;
        let mut index = number(&mut section)?;
        if name == CALLBACK && kind == FUNCTION {
            callback = Some(index);
            index = added;
        }
        exports.extend(leb(name.len()));
        exports.extend_from_slice(name);
        exports.push(kind);
        exports.extend(leb(index));
    }
    Some((exports, callback?))
}

/// A list with one more item at its end.
fn with_one_more(mut section: &[u8], item: &[u8]) -> Option<Vec<u8>> {
    let mut list = leb(number(&mut section)? + 1);
    list.extend_from_slice(section);
    list.extend_from_slice(item);
    Some(list)
}

fn byte(bytes: &mut &[u8]) -> Option<u8> {
    let (first, rest) = bytes.split_first()?;
    *bytes = rest;
    Some(*first)
}

fn take<'a>(bytes: &mut &'a [u8], size: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(size)?;
    *bytes = rest;
    Some(taken)
}

/// An unsigned number of up to 32 bits in LEB128.
fn number(bytes: &mut &[u8]) -> Option<usize> {
    let mut value = 0;
    for shift in (0..35).step_by(7) {
        let next = byte(bytes)?;
        value |= usize::from(next & 0x7f) << shift;
        if next < 0x80 {
            return Some(value);
        }
    }
    None
}

fn leb(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_they_are_written() {
        for value in [0, 1, 127, 128, 300, 16_384, 0xffff_ffff] {
            assert_eq!(number(&mut leb(value).as_slice()), Some(value));
        }
    }

    #[test]
    fn what_is_no_such_module_is_refused() {
        assert_eq!(fragile(b""), None);
        assert_eq!(fragile(b"\0asm\x01\0\0\0"), None, "no section at all");
        assert_eq!(fragile(b"\0asm\x01\0\0\0\x07\xff"), None, "cut off");
    }
}
