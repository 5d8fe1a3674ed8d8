//! etcd: gRPC, told by the package its services are in (etcd API reference, version 3).

const PACKAGES: [&[u8]; 5] = [b"/etcdserverpb.", b"/v3electionpb.", b"/v3lockpb.", b"/raftpb.", b"/membershippb."];

/// Whether the `:path` of an HTTP/2 request is a call of etcd's.
pub fn is(path: &[u8]) -> bool {
    PACKAGES.iter().any(|p| path.starts_with(p))
}

#[cfg(test)]
mod tests {
    #[test]
    fn paths() {
        assert!(super::is(b"/etcdserverpb.KV/Range") && !super::is(b"/grpc.health.v1.Health/Check") && !super::is(b""));
    }
}
