//! The client's side of every case.

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::time::timeout;
use wtransport::endpoint::ConnectOptions;
use wtransport::error::ConnectingError;
use wtransport::tls::Sha256Digest;
use wtransport::{ClientConfig, Connection, Endpoint, VarInt};

use crate::streams::{each_opened, echo, echo_one, exchange, exchange_uni, many_streams};
use crate::{
    CASE_TIMEOUT, CLIENT_CODE, CLIENT_REASON, DATAGRAM_TIMEOUT, DATAGRAMS, MEGABYTE, OFFERED,
    Report, Result, TEXT_UP, TURNOVER, end_of, hello,
};

/// Tries the cases that standard input names, until it ends.
pub async fn run() -> Result<()> {
    hello(json!({}));
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let task: Value = serde_json::from_str(&line)?;
        let field = |name: &str| task[name].as_str().unwrap_or_default().to_owned();
        let mut report = Report::new(&field("case"));
        match timeout(
            CASE_TIMEOUT,
            try_case(&field("url"), &field("hash"), &mut report),
        )
        .await
        {
            Ok(Ok(())) => {}
            Ok(Err(error)) => report.error = error.to_string(),
            Err(_) => report.error = "no end".to_owned(),
        }
        report.print();
    }
    Ok(())
}

/// Opens a session, and does the client's part.
async fn try_case(url: &str, hash: &str, report: &mut Report) -> Result<()> {
    let config = ClientConfig::builder()
        .with_bind_default()
        .with_server_certificate_hashes([Sha256Digest::new(parse_hash(hash)?)])
        .build();
    let endpoint = Endpoint::client(config)?;
    // There is nothing for subprotocols, but fields can be added to the request.
    let options = ConnectOptions::builder(url)
        .add_header("wt-available-protocols", OFFERED)
        .build();
    let connection = match endpoint.connect(options).await {
        Ok(connection) => connection,
        Err(ConnectingError::SessionRejected) => {
            report.rejected = true;
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    let result = client_side(&connection, report).await;
    if report.case == "close-by-client" {
        connection.close(VarInt::from_u32(CLIENT_CODE), CLIENT_REASON.as_bytes());
    } else {
        connection.close(VarInt::from_u32(0), b"");
    }
    endpoint.wait_idle().await;
    result
}

/// Does what the client does in the case while the session is open.
async fn client_side(connection: &Connection, report: &mut Report) -> Result<()> {
    match report.case.as_str() {
        "bidi" => {
            exchange(connection, TEXT_UP).await?;
            echo_one(connection).await
        }
        "uni" => exchange_uni(connection, b"one way").await,
        "megabyte" => exchange(connection, &b"0123456789abcdef".repeat(MEGABYTE / 16)).await,
        "streams" => {
            report.count = many_streams(connection).await?;
            Ok(())
        }
        "server-streams" => {
            echo(connection).await;
            Ok(())
        }
        "turnover" => {
            while report.count < TURNOVER {
                exchange_uni(connection, format!("stream {}", report.count).as_bytes()).await?;
                report.count += 1;
            }
            Ok(())
        }
        "datagrams" => {
            for i in 0..DATAGRAMS {
                let b = vec![i as u8; i + 1];
                connection.send_datagram(&b)?;
                if let Ok(got) = timeout(DATAGRAM_TIMEOUT, connection.receive_datagram()).await
                    && got?.payload() == b.as_slice()
                {
                    report.count += 1;
                }
            }
            Ok(())
        }
        "reset-by-client" | "reset-by-server" | "stop-by-client" | "stop-by-server" => {
            each_opened(connection, report).await
        }
        "close-by-server" => {
            report.closed = end_of(
                &connection
                    .accept_bi()
                    .await
                    .expect_err("the server opens no stream"),
            );
            Ok(())
        }
        // There is no way to learn of it, or to ask for it. The session goes on.
        "drain-by-server" | "drain-by-client" => exchange(connection, b"to the end").await,
        _ => Ok(()),
    }
}

fn parse_hash(hex: &str) -> Result<[u8; 32]> {
    let mut hash = [0; 32];
    for (i, byte) in hash.iter_mut().enumerate() {
        let digits = hex
            .get(2 * i..2 * i + 2)
            .ok_or("the hash is not a SHA-256 in hex")?;
        *byte = u8::from_str_radix(digits, 16)?;
    }
    Ok(hash)
}
