//! Mail, news and chat.

pub mod imap;
pub mod irc;
pub mod nntp;
pub mod pop3;
pub mod smtp;
pub mod xmpp;

use super::{Recogniser, Starts};

pub static RECOGNISERS: &[Recogniser] = &[
    Recogniser::tcp("smtp", Starts::With(b"245EHLehl"), smtp::look),
    Recogniser::tcp("pop3", Starts::With(b"+-ACSUQRLTPNDacsuqrltpnd"), pop3::look),
    Recogniser::tcp("imap", Starts::Any, imap::look),
    Recogniser::tcp("nntp", Starts::With(b"2345AMCGLPHBSQRNX"), nntp::look),
    Recogniser::tcp("xmpp", Starts::With(b"< "), xmpp::look),
    Recogniser::tcp("irc", Starts::With(b":NUCPJAnu@E"), irc::look),
];
