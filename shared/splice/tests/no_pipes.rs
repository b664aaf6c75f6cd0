//! A process that has no descriptors left for pipes. In a file of its own, because the limit is the process's.

use rustix::process::{Resource, Rlimit, setrlimit};
use sallyport_splice::{EndedBy, Limits, Meter, run_bare};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

#[tokio::test]
async fn without_pipes_bytes_are_copied() {
    let (mut client, mut near) = UnixStream::pair().unwrap();
    let (mut far, mut session) = UnixStream::pair().unwrap();
    let highest = std::os::fd::AsRawFd::as_raw_fd(&session);
    let limit = Some(u64::try_from(highest).unwrap() + 1);
    let lowered = Rlimit {
        current: limit,
        maximum: limit,
    };
    setrlimit(Resource::Nofile, lowered).unwrap();
    assert!(std::fs::File::open("/dev/null").is_err());
    let sent = vec![7; 1_000_000];

    let (limits, meter) = (Limits::default(), Meter::new());
    let mut came = Vec::new();
    let (ended, (), ()) = tokio::join!(
        run_bare(&mut near, &mut far, &limits, &meter),
        async {
            client.write_all(&sent).await.unwrap();
            client.shutdown().await.unwrap();
        },
        async {
            session.read_to_end(&mut came).await.unwrap();
            session.shutdown().await.unwrap();
        }
    );

    assert!(came == sent);
    assert!(matches!(ended.by, EndedBy::Both), "{ended:?}");
}
