//! Every byte arrives, whatever the pace.

use proptest::prelude::*;
use sallyport_mux::{Settings, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Builder;

use crate::support::{pair, pattern, soon};

/// What one stream does: bytes each way, sizes of its writes and reads, and when it takes a rest.
#[derive(Debug, Clone)]
struct Plan {
    up: usize,
    down: usize,
    write: usize,
    read: usize,
    rest_every: usize,
}

fn plans() -> impl Strategy<Value = Vec<Plan>> {
    let plan = (
        0_usize..300_000,
        0_usize..300_000,
        1_usize..70_000,
        1_usize..70_000,
        1_usize..8,
    );
    let plan = plan.prop_map(|(up, down, write, read, rest_every)| Plan {
        up: up.min(write * 400),
        down: down.min(write * 400),
        write,
        read: read.max(200),
        rest_every,
    });
    prop::collection::vec(plan, 1..24)
}

async fn send(stream: &mut (impl AsyncWriteExt + Unpin), bytes: usize, plan: &Plan) {
    let mut sent = 0;
    while sent < bytes {
        let size = plan.write.min(bytes - sent);
        stream.write_all(&pattern(sent, size)).await.expect("live");
        sent += size;
        if (sent / plan.write).is_multiple_of(plan.rest_every) {
            tokio::task::yield_now().await;
        }
    }
    stream.shutdown().await.expect("live");
}

async fn receive(stream: &mut (impl AsyncReadExt + Unpin), bytes: usize, plan: &Plan) {
    let mut got = 0;
    let mut buffer = vec![0; plan.read];
    loop {
        let read = stream.read(&mut buffer).await.expect("live");
        if read == 0 {
            break;
        }
        assert_eq!(buffer[..read], pattern(got, read), "at {got}");
        got += read;
        tokio::task::yield_now().await;
    }
    assert_eq!(got, bytes);
}

async fn play(stream: Stream, (out, back): (usize, usize), plan: &Plan) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    tokio::join!(
        send(&mut writer, out, plan),
        receive(&mut reader, back, plan)
    );
}

async fn transfer(plans: Vec<Plan>, room: usize) {
    let (client, server) = pair(room, &Settings::default());
    let serving = async {
        let mut tasks = Vec::new();
        for _ in &plans {
            let mut stream = server.accept().await.expect("a stream");
            let number = stream.read_u8().await.expect("its number");
            let plan = plans[usize::from(number)].clone();
            tasks.push(tokio::spawn(async move {
                play(stream, (plan.down, plan.up), &plan).await;
            }));
        }
        for task in tasks {
            task.await.expect("no panic");
        }
    };
    let asking = async {
        let mut tasks = Vec::new();
        for (number, plan) in plans.iter().cloned().enumerate() {
            let mut stream = client.mux.open().expect("live");
            tasks.push(tokio::spawn(async move {
                stream
                    .write_u8(u8::try_from(number).expect("few"))
                    .await
                    .expect("live");
                play(stream, (plan.up, plan.down), &plan).await;
            }));
        }
        for task in tasks {
            task.await.expect("no panic");
        }
    };
    soon(async { tokio::join!(serving, asking) }).await;
    // the task of the connection hears of the last end a moment later
    soon(async {
        while client.mux.figures().streams > 0 || server.mux.figures().unread > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn every_byte_arrives_whatever_the_pace(plans in plans(), room in 13_usize..200_000) {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        runtime.block_on(transfer(plans, room));
    }
}

#[tokio::test]
async fn a_writer_of_single_bytes_costs_little_memory_and_few_frames() {
    let (client, server) = pair(64 * 1024, &Settings::default());
    let mut opened = client.mux.open().expect("live");
    let writing = async {
        for place in 0..200_000 {
            opened.write_all(&pattern(place, 1)).await.expect("live");
        }
        opened.shutdown().await.expect("live");
    };
    let reading = async {
        let mut taken = server.accept().await.expect("a stream");
        let mut got = Vec::new();
        taken.read_to_end(&mut got).await.expect("an end");
        got
    };
    let ((), got) = soon(async { tokio::join!(writing, reading) }).await;
    assert_eq!(got, pattern(0, 200_000));
}

#[tokio::test]
async fn sixty_five_thousand_streams_fit_one_connection() {
    let (client, server) = pair(64 * 1024, &Settings::default());
    let serving = async {
        for _ in 0..65_000 {
            let mut stream = server.accept().await.expect("a stream");
            let byte = stream.read_u8().await.expect("a byte");
            stream.write_u8(byte).await.expect("live");
            stream.shutdown().await.expect("live");
        }
    };
    let asking = async {
        for number in 0..65_000_u32 {
            let mut stream = client.mux.open().expect("live");
            let byte = number.to_be_bytes()[3];
            stream.write_u8(byte).await.expect("live");
            stream.shutdown().await.expect("live");
            assert_eq!(stream.read_u8().await.expect("an echo"), byte);
            assert_eq!(stream.read(&mut [0]).await.expect("an end"), 0);
        }
    };
    soon(async { tokio::join!(serving, asking) }).await;
}
