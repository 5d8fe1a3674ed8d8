pub mod wireguard;
