//! Sockets and files that are named: from where they count, and that no two are the same.

use super::*;

#[test]
fn relative_paths_in_a_file_count_from_its_directory() {
    let command = arguments::command();
    let paths = file_options(&command).filter_map(|option| match Kind::of(option) {
        Kind::Path(prefix) => Some((key(option), prefix)),
        Kind::Socket => Some((key(option), "")),
        _ => None,
    });
    let mut count = 0;
    for (key, prefix) in paths {
        let place = Place::with(&format!("{key} = '{prefix}sub/x'"));
        let from_file = run(&[needed_besides(key), place.config()].concat());
        let absolute = format!("--{key}={prefix}{}", place.path("sub/x"));
        let from_line = run(&[needed_besides(key), vec![absolute]].concat());
        assert_eq!(from_file, from_line, "{key}");
        count += 1;
    }
    assert_eq!(count, 6);
}

#[test]
fn same_console_file_is_refused_however_it_is_written() {
    let place = Place::with("");
    fs::create_dir(place.path("sub")).unwrap();
    std::os::unix::fs::symlink(place.path(""), place.path("link")).unwrap();
    let console = |name| format!("--serial=file:{}", place.path(name));
    for name in ["x", "./x", "sub/../x", "link/x"] {
        let error = machine(&[&console("x"), &console(name)]).unwrap_err();
        assert!(error.contains("another --serial"), "{name}: {error}");
    }
    let two = machine(&[&console("x"), &console("sub/x")]).unwrap();
    assert_eq!(two.serial.len(), 2);
}

#[test]
fn same_socket_is_refused_however_it_is_written() {
    let place = Place::with("");
    fs::create_dir(place.path("sub")).unwrap();
    let socket = |name| format!("--qmp={}", place.path(name));
    for name in ["x", "./x,mode=0660", "sub/../x,wait=on"] {
        let error = machine(&[&socket("x"), &socket(name)]).unwrap_err();
        assert!(error.contains("another --qmp"), "{name}: {error}");
    }
    let error = machine(&["--qmp=unix:/q,server,nowait"]).unwrap_err();
    assert!(error.contains("--qmp /q names"), "{error}");
    let two = machine(&[&socket("x"), &socket("sub/x")]).unwrap();
    assert_eq!(two.qmp.len(), 3);
}

#[test]
fn sockets_in_a_file_keep_their_options_and_count_from_its_directory() {
    let place = Place::with("qmp = ['a,mode=0660', 'unix:b,,c,server,nowait', '/d']\n");
    fs::create_dir(place.path("x,y")).unwrap();
    fs::rename(place.path("machine.toml"), place.path("x,y/machine.toml")).unwrap();
    let config = format!("--config={}", place.path("x,y/machine.toml"));
    let options = run(&strings(&["--kernel=/k", "--mem=2G", &config])).unwrap();
    let paths: Vec<_> = options.qmp.iter().map(|socket| &socket.path).collect();
    assert_eq!(paths[0].to_str().unwrap(), place.path("x,y/a"));
    assert_eq!(paths[1].to_str().unwrap(), place.path("x,y/b,c"));
    assert_eq!(paths[2].to_str().unwrap(), "/d");
    assert_eq!(options.qmp[0].mode, 0o660);
}

#[test]
fn socket_of_another_kind_is_refused_in_a_file_too() {
    let place = Place::with("qmp = 'tcp:localhost:4444'\n");
    let error = run(&[needed_besides("qmp"), place.config()].concat()).unwrap_err();
    for part in ["qmp: \"tcp:localhost:4444\"", "only Unix sockets", "line 1"] {
        assert!(error.contains(part), "{error}");
    }
}
