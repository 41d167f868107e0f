use tokio::io::AsyncReadExt as _;

use super::*;

/// A gateway that answers whatever it is asked with its own name, and closes.
async fn gateway(name: &'static str) -> anyhow::Result<(SocketAddr, tokio::task::JoinHandle<()>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let task = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut asked = Vec::new();
            // The client closes its side first.
            let _ = stream.read_to_end(&mut asked).await;
            let _ = stream.write_all(name.as_bytes()).await;
        }
    });
    Ok((address, task))
}

async fn ask(public: SocketAddr) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(public).await?;
    stream.write_all(b"who?").await?;
    stream.shutdown().await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[tokio::test]
async fn each_connection_goes_to_a_gateway_that_takes_it() -> anyhow::Result<()> {
    let (first, first_task) = gateway("first").await?;
    let (second, second_task) = gateway("second").await?;
    let ready = [watch::Sender::new(true), watch::Sender::new(true)];
    let gateways = [("gateway-0", first), ("gateway-1", second)]
        .into_iter()
        .zip(&ready)
        .enumerate()
        .map(|(index, ((label, address), ready))| Gateway {
            index,
            label: label.into(),
            address,
            ready: ready.subscribe(),
        });
    let (sender, mut events) = mpsc::unbounded_channel();
    let listener = bind("127.0.0.1:0".parse()?).await?;
    let public = listener.local_addr()?;
    let levers = Levers::new();
    let task = tokio::spawn(run(listener, gateways.collect(), sender, levers.clone()));

    let mut answers = vec![ask(public).await?, ask(public).await?];
    answers.sort();
    assert_eq!(answers, ["first", "second"], "in turn");

    // Known to be away: nobody even tries.
    ready[0].send_replace(false);
    for _ in 0..4 {
        assert_eq!(ask(public).await?, "second");
    }
    assert!(events.try_recv().is_err(), "nothing to tell");
    // Gone before anybody knows.
    ready[0].send_replace(true);
    first_task.abort();
    assert!(first_task.await.is_err_and(|error| error.is_cancelled()));
    for _ in 0..4 {
        assert_eq!(ask(public).await?, "second");
    }
    let Ok((0, Event::Noted(said))) = events.try_recv() else {
        anyhow::bail!("nothing was said of gateway-0");
    };
    assert!(said.starts_with("gateway-0 takes no connections"), "{said}");
    assert!(events.try_recv().is_err(), "said once");

    second_task.abort();
    assert!(second_task.await.is_err_and(|error| error.is_cancelled()));
    assert!(!ask(public).await.is_ok_and(|answer| !answer.is_empty()));
    let mut said = Vec::new();
    while let Ok((_, Event::Noted(text))) = events.try_recv() {
        said.push(text);
    }
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[1].starts_with("no gateway"), "{said:?}");

    levers.drain.cancel();
    task.await?;
    assert!(
        TcpStream::connect(public).await.is_err(),
        "the port is free"
    );
    Ok(())
}

#[tokio::test]
async fn at_its_end_connections_may_finish_until_it_is_killed() -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let ready = watch::Sender::new(true);
    let gateway = Gateway {
        index: 0,
        label: "gateway-0".into(),
        address: listener.local_addr()?,
        ready: ready.subscribe(),
    };
    let (sender, _events) = mpsc::unbounded_channel();
    let door = bind("127.0.0.1:0".parse()?).await?;
    let public = door.local_addr()?;
    let levers = Levers::new();
    let task = tokio::spawn(run(door, vec![gateway], sender, levers.clone()));
    let mut client = TcpStream::connect(public).await?;
    let (mut inside, _) = listener.accept().await?;
    levers.drain.cancel();
    inside.write_all(b"late").await?;
    let mut late = [0; 4];
    client.read_exact(&mut late).await?;
    assert_eq!(&late, b"late", "what was there goes on");
    assert!(!task.is_finished());
    levers.kill.cancel();
    task.await?;
    assert_eq!(client.read(&mut late).await.unwrap_or(0), 0, "cut off");
    Ok(())
}
