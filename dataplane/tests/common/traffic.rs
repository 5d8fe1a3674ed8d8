//! Traffic with checked content: every byte sent must come back.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use softdpu_testbed::topology::{SERVER, Topology};

/// Longest wait for any one byte or datagram.
const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes that repeat by seed; `text` ones compress, the others do not.
pub fn bytes(seed: u64, length: usize, text: bool) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    if text {
        const WORDS: [&str; 6] = ["order ", "shipped ", "{\"price\": ", "customer ", "\n", "lamp, "];
        let words = std::iter::from_fn(|| Some(WORDS[(next() % 6) as usize].as_bytes()));
        words.flatten().copied().take(length).collect()
    } else {
        std::iter::from_fn(|| Some(next().to_le_bytes())).flatten().take(length).collect()
    }
}

fn server(v6: bool, port: u16) -> SocketAddr {
    SocketAddr::new(SERVER[usize::from(v6)].parse().unwrap(), port)
}

/// Sends `data` over TCP to an echo on the server and compares what comes back.
pub fn tcp(topology: &Topology, v6: bool, data: &[u8]) {
    let listener = topology.server.within(|| Ok(TcpListener::bind(server(v6, 0))?)).unwrap();
    let address = listener.local_addr().unwrap();
    let length = data.len();
    std::thread::scope(|scope| {
        // A client that gives up must not leave the echo in accept for good.
        let echo = scope.spawn(move || {
            listener.set_nonblocking(true).unwrap();
            let (mut stream, _) =
                softdpu_testbed::process::eventually(PATIENCE, || listener.accept().ok()).expect("a connection");
            stream.set_nonblocking(false).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut all = Vec::with_capacity(length);
            stream.read_to_end(&mut all).unwrap();
            stream.write_all(&all).unwrap();
        });
        let mut stream =
            topology.client.within(|| Ok(TcpStream::connect_timeout(&address, PATIENCE)?)).expect("connect");
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(data).expect("send");
        stream.shutdown(Shutdown::Write).unwrap();
        let mut back = Vec::with_capacity(length);
        stream.read_to_end(&mut back).expect("receive");
        echo.join().expect("the echo");
        assert!(back == data, "TCP: {} bytes went, {} came back or they differ", data.len(), back.len());
    });
}

/// Sends datagrams of the given lengths to an echo on the server, one at a time, and compares what comes back.
pub fn udp(topology: &Topology, v6: bool, lengths: impl IntoIterator<Item = usize>) {
    let echo = topology.server.within(|| Ok(UdpSocket::bind(server(v6, 0))?)).unwrap();
    let any: SocketAddr = if v6 { "[::]:0" } else { "0.0.0.0:0" }.parse().unwrap();
    let client = topology.client.within(|| Ok(UdpSocket::bind(any)?)).unwrap();
    client.connect(echo.local_addr().unwrap()).unwrap();
    for socket in [&echo, &client] {
        socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    }
    let mut buffer = vec![0u8; 65_536];
    for (seed, length) in (1u64..).zip(lengths) {
        let data = bytes(seed, length, seed % 2 == 0);
        client.send(&data).unwrap();
        let (got, from) = echo.recv_from(&mut buffer).unwrap_or_else(|error| panic!("{length} bytes there: {error}"));
        assert!(buffer[..got] == data, "{length} bytes differ at the server");
        echo.send_to(&buffer[..got], from).unwrap();
        let got = client.recv(&mut buffer).unwrap_or_else(|error| panic!("{length} bytes back: {error}"));
        assert!(buffer[..got] == data, "{length} bytes differ at the client");
    }
}

/// Segments and datagrams that the server's kernel threw away for a wrong checksum.
pub fn checksum_errors(topology: &Topology) -> u64 {
    let text = topology.server.within(|| Ok(std::fs::read_to_string("/proc/thread-self/net/snmp")?)).unwrap();
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    let pairs = lines.chunks(2).filter(|pair| pair.len() == 2);
    let columns = pairs.flat_map(|pair| pair[0].iter().zip(&pair[1]));
    columns.filter(|(name, _)| **name == "InCsumErrors").map(|(_, count)| count.parse::<u64>().unwrap()).sum()
}
