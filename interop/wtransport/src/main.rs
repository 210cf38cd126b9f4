//! A peer for the interoperability tests, on wtransport. The Go package interop
//! says what it is told and what it prints.

mod client;
mod server;
mod streams;

use std::error::Error;
use std::time::Duration;

use serde_json::{Value, json};
use wtransport::error::ConnectionError;

pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

// What both sides of a case agree on.
pub const TEXT_UP: &[u8] = b"both ways";
pub const TEXT_DOWN: &[u8] = b"from the server";
pub const STREAM_COUNT: usize = 100;
pub const STREAM_SIZE: usize = 1000;
pub const TURNOVER: usize = 300;
pub const MEGABYTE: usize = 1 << 20;
pub const DATAGRAMS: usize = 200;
pub const DATAGRAM_TIMEOUT: Duration = Duration::from_secs(1);
pub const CLIENT_CODE: u32 = 17;
pub const CLIENT_REASON: &str = "the client's reason ✓";
pub const SERVER_CODE: u32 = 4711;
pub const SERVER_REASON: &str = "low water ≈ 2 m";
pub const OFFERED: &str = r#""interop.v1", "other""#;
pub const CHOSEN: &str = "interop.v1";
pub const STREAM_CODES: [u64; 6] = [0, 29, 30, 255, 256, (1 << 32) - 1];
pub const CASE_TIMEOUT: Duration = Duration::from_secs(30);

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let result = match std::env::args().nth(1).as_deref() {
        Some("server") => server::run().await,
        Some("client") => client::run().await,
        _ => Err("say server or client".into()),
    };
    if let Err(error) = result {
        eprintln!("wtransport: {error}");
        std::process::exit(1);
    }
}

/// What this side saw of a case. The codes are those on the wire, because
/// wtransport does not map those of applications.
#[derive(Default)]
pub struct Report {
    pub case: String,
    pub error: String,
    pub subprotocol: String,
    pub count: usize,
    pub codes: Vec<u64>,
    pub rejected: bool,
    pub closed: Option<(&'static str, u64, String)>,
}

impl Report {
    pub fn new(case: &str) -> Self {
        Self {
            case: case.to_owned(),
            ..Self::default()
        }
    }

    pub fn print(&self) {
        let (how, code, reason) = self.closed.clone().unwrap_or(("", 0, String::new()));
        let mut line = json!({
            "case": self.case,
            "error": self.error,
            "subprotocol": self.subprotocol,
            "count": self.count,
            "codes": self.codes,
            "wire": true,
            "closed": {"how": how, "code": code, "reason": reason},
        });
        if self.rejected {
            // That it was rejected is known, but not with which status.
            line["status"] = json!(-1);
        }
        println!("{line}");
    }
}

/// Prints the first line. The fields of a server are added to the name.
pub fn hello(mut line: Value) {
    let version = include_str!("../Cargo.lock")
        .split("[[package]]")
        .find(|p| p.contains("name = \"wtransport\"\n"))
        .and_then(|p| p.split("version = \"").nth(1))
        .and_then(|p| p.split('"').next())
        .unwrap_or("?");
    line["peer"] = json!(format!("wtransport {version}"));
    println!("{line}");
}

/// How the other side ended the session. wtransport does not tell a close from
/// the end of the connection, but for the code.
pub fn end_of(error: &ConnectionError) -> Option<(&'static str, u64, String)> {
    match error {
        ConnectionError::ApplicationClosed(close) => Some((
            "close",
            close.code().into_inner(),
            String::from_utf8_lossy(close.reason()).into_owned(),
        )),
        ConnectionError::LocallyClosed => None,
        _ => Some(("other", 0, error.to_string())),
    }
}
