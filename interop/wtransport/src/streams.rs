//! What both sides do with streams.

use tokio::io::AsyncReadExt;
use wtransport::error::{ConnectionError, StreamReadError, StreamWriteError};
use wtransport::{Connection, RecvStream, SendStream, VarInt};

use crate::{Report, Result, STREAM_CODES, STREAM_COUNT, STREAM_SIZE};

/// What an application's code is on the wire
/// (draft-ietf-webtrans-http3-02 §4.3).
pub fn wire_code(code: u64) -> VarInt {
    VarInt::try_from_u64(0x52e4_a40f_a8db + code + code / 0x1e).expect("below 2^62")
}

/// Sends back all that the other side sends, until the session ends.
pub async fn echo(connection: &Connection) -> ConnectionError {
    let uni = async {
        loop {
            let mut stream = match connection.accept_uni().await {
                Ok(stream) => stream,
                Err(error) => return error,
            };
            let connection = connection.clone();
            tokio::spawn(async move {
                let mut b = Vec::new();
                stream.read_to_end(&mut b).await.ok()?;
                let mut back = connection.open_uni().await.ok()?.await.ok()?;
                back.write_all(&b).await.ok()?;
                back.finish().await.ok()
            });
        }
    };
    let datagrams = async {
        loop {
            let datagram = match connection.receive_datagram().await {
                Ok(datagram) => datagram,
                Err(error) => return error,
            };
            // One that is not sent is lost.
            let _ = connection.send_datagram(datagram.payload());
        }
    };
    let bidi = async {
        loop {
            match connection.accept_bi().await {
                Ok((send, receive)) => tokio::spawn(async move {
                    let _ = send_back(send, receive).await;
                }),
                Err(error) => return error,
            };
        }
    };
    tokio::select! {
        error = uni => error,
        error = datagrams => error,
        error = bidi => error,
    }
}

/// Echoes one stream to its end.
pub async fn send_back(mut send: SendStream, mut receive: RecvStream) -> Result<()> {
    let mut b = vec![0; 16 << 10];
    while let Some(n) = receive.read(&mut b).await? {
        send.write_all(&b[..n]).await?;
    }
    Ok(send.finish().await?)
}

/// Accepts a stream and echoes it.
pub async fn echo_one(connection: &Connection) -> Result<()> {
    let (send, receive) = connection.accept_bi().await?;
    send_back(send, receive).await
}

/// Sends `b` on a new stream and wants it back.
pub async fn exchange(connection: &Connection, b: &[u8]) -> Result<()> {
    let (mut send, mut receive) = connection.open_bi().await?.await?;
    let sending = async {
        send.write_all(b).await?;
        send.finish().await
    };
    let mut got = Vec::new();
    let (sent, read) = tokio::join!(sending, receive.read_to_end(&mut got));
    sent?;
    read?;
    wanted(b, &got)
}

/// Sends `b` on a new stream and wants it back on one of the server's.
pub async fn exchange_uni(connection: &Connection, b: &[u8]) -> Result<()> {
    let mut send = connection.open_uni().await?.await?;
    send.write_all(b).await?;
    send.finish().await?;
    let mut got = Vec::new();
    connection.accept_uni().await?.read_to_end(&mut got).await?;
    wanted(b, &got)
}

/// Opens a stream, writes `text`, and ends it when that has come back.
pub async fn ask_echo(connection: &Connection, text: &[u8]) -> Result<()> {
    let (mut send, mut receive) = connection.open_bi().await?.await?;
    send.write_all(text).await?;
    let mut got = vec![0; text.len()];
    receive.read_exact(&mut got).await?;
    wanted(text, &got)?;
    Ok(send.finish().await?)
}

/// Has all streams open at once, and returns how many were echoed.
pub async fn many_streams(connection: &Connection) -> Result<usize> {
    let mut streams = Vec::new();
    for i in 0..STREAM_COUNT {
        let (mut send, receive) = connection.open_bi().await?.await?;
        send.write_all(&[i as u8]).await?;
        streams.push((send, receive));
    }
    for (i, (mut send, mut receive)) in streams.into_iter().enumerate() {
        let b = vec![i as u8; STREAM_SIZE];
        send.write_all(&b[1..]).await?;
        send.finish().await?;
        let mut got = Vec::new();
        receive.read_to_end(&mut got).await?;
        wanted(&b, &got)?;
    }
    Ok(STREAM_COUNT)
}

/// Says something on a stream of its own.
pub async fn say(connection: &Connection, text: &[u8]) -> Result<()> {
    let mut send = connection.open_uni().await?.await?;
    send.write_all(text).await?;
    Ok(send.finish().await?)
}

/// The client's part of a case about codes: opens a stream for each, has a byte
/// echoed on it, and cancels it or waits until the server does.
pub async fn each_opened(connection: &Connection, report: &mut Report) -> Result<()> {
    for code in STREAM_CODES {
        let (mut send, mut receive) = connection.open_bi().await?.await?;
        let mut b = [1];
        send.write_all(&b).await?;
        receive.read_exact(&mut b).await?;
        match report.case.as_str() {
            "reset-by-client" => {
                send.reset(wire_code(code))?;
                receive.read_to_end(&mut Vec::new()).await?;
            }
            "reset-by-server" => {
                send.write_all(&[2]).await?;
                report.codes.push(reset_code(&mut receive).await?);
            }
            "stop-by-client" => {
                receive.stop(wire_code(code));
                let mut seen = connection.accept_uni().await?;
                seen.read_to_end(&mut Vec::new()).await?;
            }
            _ => {
                send.write_all(&[2]).await?;
                report.codes.push(stop_code(&mut send).await?);
            }
        }
    }
    Ok(())
}

/// The server's part of a case about codes.
pub async fn each_accepted(connection: &Connection, report: &mut Report) -> Result<()> {
    for code in STREAM_CODES {
        let (mut send, mut receive) = connection.accept_bi().await?;
        let mut b = [0];
        receive.read_exact(&mut b).await?;
        send.write_all(&b).await?;
        match report.case.as_str() {
            "reset-by-client" => {
                report.codes.push(reset_code(&mut receive).await?);
                send.finish().await?;
            }
            "reset-by-server" => {
                receive.read_exact(&mut b).await?;
                send.reset(wire_code(code))?;
            }
            "stop-by-client" => {
                report.codes.push(stop_code(&mut send).await?);
                say(connection, b"seen").await?;
            }
            _ => {
                receive.read_exact(&mut b).await?;
                receive.stop(wire_code(code));
                send.finish().await?;
            }
        }
    }
    Ok(())
}

async fn reset_code(receive: &mut RecvStream) -> Result<u64> {
    match receive.read(&mut [0]).await {
        Err(StreamReadError::Reset(code)) => Ok(code.into_inner()),
        other => Err(format!("no reset, but {other:?}").into()),
    }
}

async fn stop_code(send: &mut SendStream) -> Result<u64> {
    match send.stopped().await {
        StreamWriteError::Stopped(code) => Ok(code.into_inner()),
        other => Err(format!("no stop, but {other:?}").into()),
    }
}

fn wanted(want: &[u8], got: &[u8]) -> Result<()> {
    if want == got {
        return Ok(());
    }
    Err(format!(
        "{} bytes came back and differ from the {} sent",
        got.len(),
        want.len()
    )
    .into())
}
