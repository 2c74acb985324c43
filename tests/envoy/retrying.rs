//! What the tests of budgets and of seats both need: a policy that retries, and requests whose attempts can be told apart.

use std::time::Duration;

use bytes::Bytes;
use holdfast_tests::{Client, with_header};
use http::Request;
use serde_json::{Value, json};
use tokio::time::sleep;

/// Longer than the request seat takes to notice an attempt seat.
pub const NOTICED: Duration = Duration::from_millis(1100);

/// Each request bears its own value, so that its attempts can be told from others'.
pub const ID: &str = "x-id";

pub fn orders(retry: Value) -> Value {
    json!({"policies": [{"name": "orders", "retry": retry}]})
}

/// A budget of exactly so many retries in the life of a test, however many requests there are: the window is longer
/// than a test takes on a busy machine.
pub fn exactly(tokens: u32) -> Value {
    json!({"ratio": 0, "min_per_second": f64::from(tokens) / 250.0, "window": "250s"})
}

pub fn quick_backoff() -> Value {
    json!({"base": "1ms", "max": "4ms"})
}

pub fn request(path: &str, id: &str) -> Request<Bytes> {
    with_header(Client::request(path), ID, id)
}

/// Lets every client's worker see the attempt seat: each looks for it once a second. The hosts must answer well, since no
/// retry is meant here. Gives the number of requests that this took.
pub async fn seats_meet(clients: &[Client], path: &str) -> u64 {
    for round in 0..2 {
        for client in clients {
            assert_eq!(client.get(path).await.unwrap().status, 200);
        }
        if round == 0 {
            sleep(NOTICED).await;
        }
    }
    2 * clients.len() as u64
}
