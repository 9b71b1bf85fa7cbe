use super::*;

#[test]
fn messages_are_put_together_from_any_pieces() {
    let mut wire = Vec::new();
    for text in ["{}", "", "[1,2,3]"] {
        wire.extend_from_slice(&(text.len() as u32).to_le_bytes());
        wire.extend_from_slice(text.as_bytes());
    }
    for step in 1..wire.len() {
        let mut assembler = Assembler::default();
        let mut got = Vec::new();
        for chunk in wire.chunks(step) {
            assembler.push(chunk).unwrap();
            while let Some(message) = assembler.next_message().unwrap() {
                got.push(message);
            }
        }
        assert_eq!(got, [b"{}".to_vec(), vec![], b"[1,2,3]".to_vec()], "steps of {step}");
    }
}

#[test]
fn a_message_above_four_mebibytes_is_refused_by_its_length() {
    let mut assembler = Assembler::default();
    assembler.push(&(MAX_MESSAGE_BYTES as u32 + 1).to_le_bytes()).unwrap();
    assert_eq!(assembler.next_message(), Err(()));
}

#[test]
fn requests_are_read_strictly() {
    assert_eq!(parse_request(br#"{"id": 7, "method": "sandbox.ping"}"#).unwrap().id, 7);
    for bad in [r#"{"id": -1, "method": "x"}"#, r#"{"id": 1}"#, "[]", "", "{", r#"{"id":1,"method":"x","more":1}"#] {
        assert!(parse_request(bad.as_bytes()).is_err(), "{bad}");
    }
}

#[test]
fn params_of_any_depth_are_an_error_and_no_overflow() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let text = format!(r#"{{"id":1,"method":"x","params":{deep}}}"#);
    let request = parse_request(text.as_bytes()).unwrap();
    assert!(params::<Nothing>("x", request.params).is_err());
    assert!(params::<Create>("x", request.params).is_err());
}

#[test]
fn unknown_params_are_refused_by_name() {
    let raw = |text| Some(serde_json::from_str::<&RawValue>(text).unwrap());
    let error = params::<ById>("container.start", raw(r#"{"id": "a", "idd": "b"}"#)).unwrap_err();
    assert!(
        matches!(&error, Error::InvalidArgument(m) if m.contains("container.start") && m.contains("idd")),
        "{error}"
    );
    assert!(params::<Nothing>("sandbox.ping", None).is_ok());
    assert!(params::<Nothing>("sandbox.ping", raw("{}")).is_ok());
    assert!(params::<Nothing>("sandbox.ping", raw(r#"{"x": 1}"#)).is_err());
    let null = parse_request(br#"{"id": 1, "method": "x", "params": null}"#).unwrap();
    assert!(params::<Nothing>("x", null.params).is_ok());
}

#[test]
fn responses_and_events_have_the_protocols_form() {
    let parse = |bytes: Vec<u8>| serde_json::from_slice::<Value>(&bytes).unwrap();
    assert_eq!(parse(response(7, &Ok(json!({"a": 1})))), json!({"id": 7, "result": {"a": 1}}));
    let error = Err(Error::Conflict("no".into()));
    assert_eq!(parse(response(8, &error)), json!({"id": 8, "error": {"kind": "Conflict", "message": "no"}}));
    assert_eq!(parse(event("x.y", json!({}))), json!({"event": "x.y", "params": {}}));
}

#[test]
fn base64_is_decoded_and_checked() {
    assert_eq!(base64(""), Ok(vec![]));
    assert_eq!(base64("aGVsbG8="), Ok(b"hello".to_vec()));
    assert_eq!(base64("aGVsbG8h"), Ok(b"hello!".to_vec()));
    assert_eq!(base64("/+8="), Ok(vec![0xff, 0xef]));
    for bad in ["a", "a===", "ab=c", "aGVs bG8", "aGVsbG8_"] {
        assert!(base64(bad).is_err(), "{bad}");
    }
}

#[test]
fn ids_are_safe_as_file_names() {
    assert!(check_id("id", &"a".repeat(128)).is_ok());
    for bad in ["", ".", "..", "a/b", ".hidden", "a b", &"a".repeat(129), "ä", "a\0"] {
        assert!(check_id("id", bad).is_err(), "{bad:?}");
    }
}
