use super::*;

fn parse(value: &str) -> Result<SocketArgument, String> {
    SocketArgument::parse(value.into())
}

fn plain(path: &str) -> SocketArgument {
    SocketArgument {
        path: path.into(),
        mode: 0o600,
        group: None,
        wait: false,
    }
}

#[test]
fn path_alone_is_for_the_owner_and_nobody_waits() {
    for path in [
        "/run/a", "sub/x", "./tcp:1", "/a:b", "a=b", "x.sock", "stdio2",
    ] {
        assert_eq!(parse(path), Ok(plain(path)), "{path}");
    }
}

#[test]
fn options_follow_the_path() {
    let expected = SocketArgument {
        mode: 0o660,
        group: Some("kvm".to_owned()),
        wait: true,
        ..plain("/run/a")
    };
    for value in [
        "/run/a,mode=0660,group=kvm,wait=on",
        "/run/a,wait,group=kvm,mode=660",
        "/run/a,wait=off,mode=0600,mode=0660,group=kvm,wait=true",
        "unix:/run/a,server=on,mode=0660,group=kvm",
    ] {
        assert_eq!(parse(value), Ok(expected.clone()), "{value}");
    }
}

#[test]
fn spelling_of_qemu_waits_unless_told_not_to() {
    for (value, wait) in [
        ("unix:/a,server=on", true),
        ("unix:/a,server", true),
        ("unix:/a,server=on,wait=on", true),
        ("unix:/a,server=on,wait=off", false),
        ("unix:/a,server,nowait", false),
        ("unix:/a,wait=off,server=on", false),
        ("/a,server,nowait", false),
        ("/a,server=on", false),
    ] {
        assert_eq!(parse(value).map(|socket| socket.wait), Ok(wait), "{value}");
    }
}

#[test]
fn qemu_is_not_connected_to() {
    for value in ["unix:/a", "unix:/a,wait=off"] {
        let refusal = parse(value).unwrap_err();
        assert!(refusal.contains("add server=on"), "{refusal}");
    }
    for value in ["unix:/a,server=off", "unix:/a,noserver", "/a,server=off"] {
        let refusal = parse(value).unwrap_err();
        assert!(refusal.contains("connects to none"), "{refusal}");
    }
}

#[test]
fn comma_in_a_path_is_written_twice() {
    for (value, path) in [
        ("/a,,b", "/a,b"),
        ("/a,,", "/a,"),
        ("/a,,,mode=0600", "/a,"),
        ("/a,,,,b,wait=off", "/a,,b"),
        ("unix:,,a,server,nowait", ",a"),
    ] {
        assert_eq!(parse(value), Ok(plain(path)), "{value}");
    }
}

#[test]
fn what_is_no_unix_socket_is_refused() {
    for value in [
        "tcp:localhost:4444,server=on",
        "tcp:/a",
        "telnet::1",
        "stdio",
        "pty",
        "mon:stdio",
        "chardev:c",
        "fd:3",
        "unx:/a",
    ] {
        let refusal = parse(value).unwrap_err();
        assert!(refusal.contains("only Unix sockets"), "{value}: {refusal}");
    }
}

#[test]
fn mode_is_octal_and_has_only_permissions() {
    for (text, mode) in [
        ("0600", 0o600),
        ("777", 0o777),
        ("200", 0o200),
        ("0666", 0o666),
    ] {
        assert_eq!(parse(&format!("/a,mode={text}")).unwrap().mode, mode);
    }
    for text in [
        "", "60", "0888", "1777", "4755", "00660", "0o660", "+66", "rw",
    ] {
        let refusal = parse(&format!("/a,mode={text}")).unwrap_err();
        assert!(refusal.contains("octal"), "{text}: {refusal}");
    }
    let refusal = parse("/a,mode=0060").unwrap_err();
    assert!(refusal.contains("the owner must"), "{refusal}");
}

#[test]
fn wrong_options_are_named() {
    for (value, part) in [
        ("/a,", "\"\": no such option"),
        ("/a,b", "\"b\": no such option"),
        ("/a,reconnect=1", "\"reconnect=1\": no such option"),
        ("/a,wait=maybe", "\"wait=maybe\": the value is on or off"),
        ("/a,group=", "\"group=\": write the name"),
        ("/a,group", "\"group\": write the name"),
        ("/a,nogroup", "\"nogroup\": write the name"),
        ("", "needs a path"),
        (",mode=0600", "needs a path"),
        ("unix:", "needs a path"),
        ("unix:,server=on", "needs a path"),
    ] {
        let refusal = parse(value).unwrap_err();
        assert!(refusal.contains(part), "{value}: {refusal}");
    }
}

#[test]
fn path_need_not_be_utf_8() {
    let value = OsString::from_vec(b"/\xff,mode=0660".to_vec());
    let socket = SocketArgument::parse(value).unwrap();
    assert_eq!(socket.path.as_os_str().as_bytes(), b"/\xff");
    assert_eq!(socket.mode, 0o660);
}

#[test]
fn another_path_can_stand_in_a_value() {
    for (value, path, with) in [
        ("a", "a", "/x,,y"),
        ("a,,b", "a,b", "/x,,y"),
        ("a,mode=0660,wait", "a", "/x,,y,mode=0660,wait"),
        ("unix:a,,,server", "a,", "unix:/x,,y,server"),
    ] {
        let text = SocketText::of(value).unwrap();
        assert_eq!(text.path, Path::new(path));
        assert_eq!(text.with(Path::new("/x,y")), with, "{value}");
    }
    for value in ["", ",mode=0600", "unix:", "tcp:1", "stdio"] {
        assert_eq!(SocketText::of(value), None, "{value}");
    }
}
