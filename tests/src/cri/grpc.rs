//! One gRPC call over a Unix socket, with one message there and one back: HTTP/2 with length-prefixed
//! protobuf (PROTOCOL-HTTP2.md of gRPC).

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use http::{HeaderMap, Request, Version};
use prost::{Message, bytes::Bytes};
use tokio::{net::UnixStream, runtime::Builder, time::timeout};

/// Before each message: whether it is compressed, and its length in 4 bytes, big-endian.
const PREFIX: usize = 5;
/// A server that sends more than this of one message is wrong.
const MOST: usize = 16 << 20;
/// A runtime that has not answered after that hangs; a pod takes it some seconds here.
const LIMIT: Duration = Duration::from_secs(90);

/// Asks `method`, such as `/runtime.v1.RuntimeService/Version`, and waits for the answer.
pub fn call<A: Message + Default>(socket: &str, method: &str, ask: &impl Message) -> Result<A> {
    let runtime = Builder::new_current_thread().enable_all().build().context("no event loop")?;
    let asked = async { timeout(LIMIT, unary(socket, method, &ask.encode_to_vec())).await };
    let answer = runtime.block_on(asked).context("no answer in time").flatten();
    let answer = answer.with_context(|| format!("{method} at {socket}"))?;
    A::decode(answer.as_slice()).with_context(|| format!("the answer to {method}"))
}

async fn unary(socket: &str, method: &str, ask: &[u8]) -> Result<Vec<u8>> {
    let stream = UnixStream::connect(socket).await.context("cannot connect")?;
    let (client, connection) = h2::client::handshake(stream).await.context("no HTTP/2")?;
    let exchange = exchange(client, method, ask);
    tokio::pin!(exchange, connection);
    tokio::select! {
        answer = &mut exchange => answer,
        ended = &mut connection => bail!("the connection ended: {ended:?}"),
    }
}

async fn exchange(
    client: h2::client::SendRequest<Bytes>,
    method: &str,
    ask: &[u8],
) -> Result<Vec<u8>> {
    let request = Request::post(format!("http://localhost{method}"))
        .version(Version::HTTP_2)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .context("odd request")?;
    let mut client = client.ready().await.context("not ready")?;
    let (answer, mut body) = client.send_request(request, false).context("cannot ask")?;
    body.send_data(framed(ask)?, true).context("cannot ask")?;
    let answer = answer.await.context("no answer")?;
    let (head, mut body) = answer.into_parts();
    ensure!(head.status.is_success(), "HTTP status {}", head.status);
    let mut data = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk.context("half an answer")?;
        data.extend_from_slice(&chunk);
        ensure!(data.len() <= MOST, "the answer is too long");
        body.flow_control().release_capacity(chunk.len()).context("odd length")?;
    }
    // An error without a message has its status in the head.
    let trailers = body.trailers().await.context("no trailers")?.unwrap_or(head.headers);
    status(&trailers)?;
    unframed(&data)
}

fn status(trailers: &HeaderMap) -> Result<()> {
    let field = |name| trailers.get(name).and_then(|value| value.to_str().ok());
    match field("grpc-status") {
        Some("0") => Ok(()),
        status => {
            bail!("status {}: {}", status.unwrap_or("none"), field("grpc-message").unwrap_or(""))
        }
    }
}

fn framed(message: &[u8]) -> Result<Bytes> {
    let length = u32::try_from(message.len()).context("the message is too long")?;
    Ok([&[0], length.to_be_bytes().as_slice(), message].concat().into())
}

fn unframed(data: &[u8]) -> Result<Vec<u8>> {
    let (prefix, message) = data.split_at_checked(PREFIX).context("no message")?;
    let [0, length @ ..] = prefix else { bail!("the message is compressed") };
    let length = length.iter().fold(0, |sum, &byte| sum << 8 | usize::from(byte));
    ensure!(message.len() == length, "{} bytes, not {length}", message.len());
    Ok(message.to_vec())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_message_and_its_prefix() {
        let long = vec![7; 300];
        let data = framed(&long).unwrap();
        assert_eq!(data.get(..PREFIX), Some([0, 0, 0, 1, 44].as_slice()));
        assert_eq!(unframed(&data).unwrap(), long);
        assert!(unframed(&data[..200]).is_err() && unframed(&[]).is_err());
        assert!(unframed(&[1, 0, 0, 0, 0]).is_err(), "compressed");
    }

    #[test]
    fn what_the_server_says_of_an_error() {
        let mut trailers = HeaderMap::new();
        assert!(status(&trailers).is_err());
        trailers.insert("grpc-status", "5".parse().unwrap());
        trailers.insert("grpc-message", "no such image".parse().unwrap());
        assert_eq!(status(&trailers).unwrap_err().to_string(), "status 5: no such image");
        trailers.insert("grpc-status", "0".parse().unwrap());
        status(&trailers).unwrap();
    }
}
