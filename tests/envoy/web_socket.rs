//! Both ends of a WebSocket, by hand: a host that echoes what it is told, and a client that says hello to it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use holdfast_tests::PATIENCE;
use serde_json::{Value, json};

/// What the client says.
pub const HELLO: &[u8; 5] = b"hello";

/// What lets a connection manager of Envoy's pass a WebSocket on.
pub fn passed_on() -> Value {
    json!({"upgrade_configs": [{"upgrade_type": "websocket"}]})
}

/// Reads a head, up to its empty line.
pub fn read_head(stream: &mut TcpStream) -> String {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

/// Takes a request for a WebSocket, echoes one hello, and gives the head of the request.
pub fn echo(mut stream: TcpStream) -> String {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = read_head(&mut stream);
    stream.write_all(b"HTTP/1.1 101 Upgraded\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n").unwrap();
    let said = read_hello(&mut stream);
    stream.write_all(&said).unwrap();
    head
}

/// Asks for a WebSocket at `/orders` and says hello. Gives the head of the answer, and what came back.
pub async fn say_hello(envoy: SocketAddr) -> (String, [u8; HELLO.len()]) {
    let client = move || {
        let mut stream = TcpStream::connect(envoy).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = "GET /orders HTTP/1.1\r\nhost: orders\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        let head = read_head(&mut stream);
        stream.write_all(HELLO).unwrap();
        (head, read_hello(&mut stream))
    };
    tokio::task::spawn_blocking(client).await.unwrap()
}

fn read_hello(stream: &mut TcpStream) -> [u8; HELLO.len()] {
    let mut said = [0; HELLO.len()];
    stream.read_exact(&mut said).unwrap();
    said
}
