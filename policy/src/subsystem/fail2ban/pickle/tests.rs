#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

// The bytes below are replies of real servers (fail2ban 1.0.2 and 1.1.0) or `pickle.dumps` of Python 3.11.

#[test]
fn an_unknown_jail_keeps_its_exception_class() {
    let reply = b"\x80\x05\x95A\0\0\0\0\0\0\0K\x01\x8c\x13fail2ban.exceptions\x94\x8c\x14UnknownJailException\x94\x93\x94\x8c\x06nojail\x94\x85\x94R\x94\x86\x94.";
    let class = "fail2ban.exceptions.UnknownJailException".to_owned();
    assert_eq!(decode(reply), Ok(Value::Tuple(vec![Value::Int(1), Value::Object { class, args: vec![text("nojail")] }])));
}

#[test]
fn addresses_arrive_as_strings() {
    // (0, [[IPAddr('192.0.2.1')]]): IPAddr reduces to (str, ('192.0.2.1',))
    let reply =
        b"\x80\x04K\x00]\x94]\x94\x8c\x08builtins\x94\x8c\x03str\x94\x93\x94\x8c\x09192.0.2.1\x94\x85\x94R\x94aa\x86\x94.";
    let list = Value::List(vec![Value::List(vec![text("192.0.2.1")])]);
    assert_eq!(decode(reply), Ok(Value::Tuple(vec![Value::Int(0), list])));
}

#[test]
fn a_python_2_server_is_understood() {
    // pickle.dumps((1, Exception(u'Invalid command')), 2) of Python 2
    let reply = b"\x80\x02K\x01cexceptions\nException\nq\x00X\x0f\x00\x00\x00Invalid commandq\x01\x85q\x02Rq\x03\x86q\x04.";
    let object = Value::Object { class: "builtins.Exception".to_owned(), args: vec![text("Invalid command")] };
    assert_eq!(decode(reply), Ok(Value::Tuple(vec![Value::Int(1), object])));
}

#[test]
fn code_is_refused_by_name_and_never_run() {
    // os.system("true")
    let reply = b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x04true\x94\x85\x94R\x94.";
    assert_eq!(decode(reply), Err(PickleError::Global("posix.system".to_owned())));
    // INST and OBJ do the same by other opcodes
    assert!(matches!(decode(b"(S'true'\nios\nsystem\n."), Err(PickleError::Opcode { opcode: b'S', .. })));
}

#[test]
fn a_name_that_is_refused_moves_no_terminal() {
    let error = decode(b"\x80\x04\x8c\x05po\x1b[2\x8c\x06sys\ntm\x93.").unwrap_err();
    assert_eq!(error.to_string(), "the reply names `po\\u{1b}[2.sys\\ntm`, which is not allowed");
}

#[test]
fn a_list_that_holds_itself_is_refused() {
    // x = []; x.append(x)
    assert_eq!(decode(b"\x80\x04]\x94h\x00a."), Err(TooMuch));
}

#[test]
fn a_memo_bomb_is_refused_before_it_grows() {
    // Twenty lists, each of ten references to the one before: 10^20 values in 600 bytes.
    let mut bomb = b"\x80\x04]\x94".to_vec();
    for level in 0u8..20 {
        bomb.extend_from_slice(b"]\x94(");
        for _ in 0..10 {
            bomb.extend_from_slice(&[b'h', level]);
        }
        bomb.push(b'e');
    }
    bomb.push(b'.');
    assert_eq!(decode(&bomb), Err(TooMuch));
    // Five levels are fewer values than a big reply has, but 125 bytes cannot honestly hold 100,000.
    let mut small = bomb.get(..4 + 5 * 24).unwrap().to_vec();
    small.push(b'.');
    assert_eq!(decode(&small), Err(TooMuch));
}

#[test]
fn a_container_filled_after_it_was_memoized_is_whole_where_it_is_recalled() {
    // [x, x] with x = [1]
    let one = Value::List(vec![Value::Int(1)]);
    assert_eq!(decode(b"\x80\x04]\x94(]\x94K\x01ah\x01e."), Ok(Value::List(vec![one.clone(), one])));
}

#[test]
fn every_cut_of_a_reply_is_an_error() {
    let reply = b"\x80\x05\x95A\0\0\0\0\0\0\0K\x01\x8c\x13fail2ban.exceptions\x94\x8c\x14UnknownJailException\x94\x93\x94\x8c\x06nojail\x94\x85\x94R\x94\x86\x94.";
    for len in 0..reply.len() {
        assert!(decode(reply.get(..len).unwrap()).is_err(), "{len}");
    }
    assert!(decode(&[reply.as_slice(), b"x"].concat()).is_err());
}

#[test]
fn numbers_of_every_size_are_read() {
    for (bytes, want) in [
        (&b"\x80\x04K\xff."[..], 255),
        (b"\x80\x04M\xff\xff.", 65535),
        (b"\x80\x04J\xff\xff\xff\xff.", -1),
        (b"\x80\x04\x8a\x05\x00\x00\x00\x00\x01.", 1 << 32),
        (b"\x80\x04\x8a\x01\xff.", -1),
        (b"\x80\x04\x8a\x00.", 0),
    ] {
        assert_eq!(decode(bytes), Ok(Value::Int(want)));
    }
    assert!(decode(b"\x80\x04\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00\x01.").is_err());
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = decode(&bytes);
    }

    #[test]
    fn arbitrary_opcodes_never_panic(
        ops in proptest::collection::vec(proptest::sample::select(b"\x80\x95.(\x94qrhjNJKM\x88\x89\x8aGX\x8c\x8dUTCB]})t\x85\x86\x87aesu\x93cRb\x81\x8f\x90\x00\x01\x02\n".to_vec()), 0..200)
    ) {
        let _ = decode(&ops);
    }

    #[test]
    fn what_serde_pickle_writes_is_read_back(list in proptest::collection::vec(("\\PC{0,20}", any::<i64>(), any::<bool>()), 0..20)) {
        let want = Value::List(list.iter().map(|(t, i, b)| Value::Tuple(vec![text(t), Value::Int(*i), Value::Bool(*b)])).collect());
        for options in [serde_pickle::SerOptions::new(), serde_pickle::SerOptions::new().proto_v2()] {
            let bytes = serde_pickle::to_vec(&list, options).unwrap();
            // A tuple of Rust is a tuple of Python; a Vec is a list.
            prop_assert_eq!(decode(&bytes), Ok(want.clone()));
        }
    }
}
