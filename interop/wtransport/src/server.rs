//! The server's side of every case.

use std::net::Ipv4Addr;

use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;
use wtransport::config::QuicTransportConfig;
use wtransport::endpoint::IncomingSession;
use wtransport::quinn::VarInt as QuicVarInt;
use wtransport::{Connection, Endpoint, Identity, ServerConfig, VarInt};

use crate::streams::{ask_echo, each_accepted, echo, echo_one, many_streams};
use crate::{
    CASE_TIMEOUT, CHOSEN, Report, Result, SERVER_CODE, SERVER_REASON, STREAM_COUNT, TEXT_DOWN,
    end_of, hello,
};

/// Serves every case, at the path of its name, until standard input ends.
pub async fn run() -> Result<()> {
    let identity = Identity::self_signed(["127.0.0.1"])?;
    let hash: String = identity.certificate_chain().as_slice()[0]
        .hash()
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let mut transport = QuicTransportConfig::default();
    // The request has a stream besides.
    transport.max_concurrent_bidi_streams(QuicVarInt::from_u32(2 * STREAM_COUNT as u32));
    let config = ServerConfig::builder()
        .with_bind_address((Ipv4Addr::LOCALHOST, 0).into())
        .with_custom_transport(identity, transport)
        .build();
    let endpoint = Endpoint::server(config)?;
    hello(json!({"addr": endpoint.local_addr()?.to_string(), "hash": hash}));
    let serving = async {
        loop {
            tokio::spawn(serve(endpoint.accept().await));
        }
    };
    let mut rest = Vec::new();
    let mut input = tokio::io::stdin();
    tokio::select! {
        () = serving => {}
        _ = input.read_to_end(&mut rest) => {}
    }
    Ok(())
}

/// Serves one session, and prints what it saw of it.
async fn serve(incoming: IncomingSession) {
    let mut report = Report::default();
    match timeout(CASE_TIMEOUT, serve_case(incoming, &mut report)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => report.error = error.to_string(),
        Err(_) => report.error = "no end".to_owned(),
    }
    if report.case != "reject" {
        report.print();
    }
}

async fn serve_case(incoming: IncomingSession, report: &mut Report) -> Result<()> {
    let request = incoming.await?;
    report.case = request.path().trim_start_matches('/').to_owned();
    if report.case == "reject" {
        request.not_found().await;
        return Ok(());
    }
    // There is nothing for subprotocols, but fields can be read and added.
    let offered = request
        .headers()
        .get("wt-available-protocols")
        .is_some_and(|p| p.contains(CHOSEN));
    let connection = if offered {
        report.subprotocol = CHOSEN.to_owned();
        request
            .accept_with_headers([("wt-protocol", format!("\"{CHOSEN}\""))])
            .await?
    } else {
        request.accept().await?
    };
    server_side(&connection, report).await?;
    // The session's end is an error of the next call.
    if let Err(error) = connection.accept_bi().await {
        report.closed = end_of(&error);
    }
    Ok(())
}

/// Does what the server does in the case while the session is open.
async fn server_side(connection: &Connection, report: &mut Report) -> Result<()> {
    match report.case.as_str() {
        "bidi" => {
            echo_one(connection).await?;
            ask_echo(connection, TEXT_DOWN).await?;
        }
        "server-streams" => {
            report.count = many_streams(connection).await?;
            connection.close(VarInt::from_u32(0), b"");
        }
        "reset-by-client" | "reset-by-server" | "stop-by-client" | "stop-by-server" => {
            each_accepted(connection, report).await?;
        }
        "drain-by-server" => {
            connection.accept_uni().await?;
            // There is no way to ask for it: the session ends unasked.
            connection.close(VarInt::from_u32(0), b"");
        }
        "close-by-server" => {
            connection.accept_uni().await?;
            connection.close(VarInt::from_u32(SERVER_CODE), SERVER_REASON.as_bytes());
        }
        _ => {
            echo(connection).await;
        }
    }
    Ok(())
}
