//! Who gets a path, and what becomes of the file.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Barrier;
use std::thread;

use rustix::fs::Uid;
use rustix::thread::set_thread_res_uid;

use super::*;

fn dir() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn bind_at(path: &Path) -> Result<Listener, BindError> {
    Listener::bind(&SocketOptions::new(path))
}

fn mode_of(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn file_has_mode_0600_and_goes_with_the_listener() {
    let dir = dir();
    let path = dir.path().join("qmp");
    let listener = bind_at(&path).unwrap();
    assert_eq!(mode_of(&path), 0o600);
    UnixStream::connect(&path).unwrap();
    drop(listener);
    assert!(!path.exists());
}

#[test]
fn stale_socket_is_replaced() {
    let dir = dir();
    let path = dir.path().join("qmp");
    drop(UnixListener::bind(&path).unwrap());
    bind_at(&path).unwrap();
}

/// Starts eight servers at `path` at the same moment. Demands that one of them has it, that the
/// others know, and that nothing else is left in the directory.
fn race(path: &Path) {
    const STARTERS: usize = 8;
    let barrier = Barrier::new(STARTERS);
    let start = || {
        barrier.wait();
        bind_at(path)
    };
    let results: Vec<_> = thread::scope(|scope| {
        let starters: Vec<_> = (0..STARTERS).map(|_| scope.spawn(start)).collect();
        let starters = starters.into_iter();
        starters.map(|starter| starter.join().unwrap()).collect()
    });

    let (winners, losers): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    assert_eq!(winners.len(), 1, "{losers:?}");
    for loser in losers {
        assert!(matches!(loser, Err(BindError::InUse { .. })), "{loser:?}");
    }
    UnixStream::connect(path).unwrap();
    let dir = path.parent().unwrap();
    assert_eq!(fs::read_dir(dir).unwrap().count(), 1);
}

#[test]
fn of_servers_started_at_once_on_a_stale_socket_one_wins() {
    let dir = dir();
    let path = dir.path().join("qmp");
    for _ in 0..200 {
        drop(UnixListener::bind(&path).unwrap());
        race(&path);
    }
}

#[test]
fn of_servers_started_at_once_on_a_free_path_one_wins() {
    let dir = dir();
    let path = dir.path().join("qmp");
    for _ in 0..200 {
        race(&path);
    }
}

#[test]
fn path_that_another_process_does_not_finish_taking_is_given_up() {
    let dir = dir();
    let path = dir.path().join("qmp");
    let lock = PathLock::acquire(&path, LOCK_WAIT).unwrap();
    let error = Listener::bind_within(&SocketOptions::new(&path), Duration::from_millis(10));
    let error = error.unwrap_err();
    assert!(matches!(error, BindError::Locked { .. }), "{error}");
    assert!(!path.exists());
    drop(lock);
    bind_at(&path).unwrap();
}

#[test]
fn directory_that_is_missing_is_told_with_the_path() {
    let dir = dir();
    let path = dir.path().join("no/where");
    let error = bind_at(&path).unwrap_err();
    assert!(matches!(error, BindError::Lock { .. }), "{error}");
    assert!(error.to_string().contains("no/where\""), "{error}");
}

#[test]
fn live_server_keeps_its_socket() {
    let dir = dir();
    let path = dir.path().join("qmp");
    let _live = UnixListener::bind(&path).unwrap();
    let error = bind_at(&path).unwrap_err();
    assert!(matches!(error, BindError::InUse { .. }), "{error}");
    UnixStream::connect(&path).unwrap();
}

#[test]
fn file_that_is_no_socket_is_left_alone() {
    let dir = dir();
    let path = dir.path().join("qmp");
    fs::write(&path, "precious").unwrap();
    let error = bind_at(&path).unwrap_err();
    assert!(matches!(error, BindError::NotASocket { .. }), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn long_path_is_refused_with_length_and_limit() {
    let path = PathBuf::from("/tmp/".to_owned() + &"x".repeat(103));
    let error = bind_at(&path).unwrap_err().to_string();
    assert!(error.contains("has 108 bytes, 107 are allowed"), "{error}");
    let dir = dir();
    let room = MAX_PATH_BYTES - dir.path().as_os_str().len() - 1;
    bind_at(&dir.path().join("y".repeat(room))).unwrap();
}

#[test]
fn file_of_a_successor_survives_the_drop() {
    let dir = dir();
    let path = dir.path().join("qmp");
    let listener = bind_at(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let _successor = UnixListener::bind(&path).unwrap();
    drop(listener);
    assert!(path.exists());
}

#[test]
fn file_has_the_mode_that_was_asked_for_whatever_the_umask() {
    let dir = dir();
    for mode in [0o660, 0o666, 0o777, 0o600, 0o060, 0] {
        let path = dir.path().join(format!("{mode:o}"));
        let options = SocketOptions {
            mode,
            ..SocketOptions::new(&path)
        };
        let _listener = Listener::bind(&options).unwrap();
        assert_eq!(mode_of(&path), mode, "{mode:o}");
    }
}

/// A socket at `path` for the group with this number.
fn with_group(path: &Path, id: u32) -> SocketOptions {
    let name = format!("the group {id}");
    SocketOptions {
        mode: 0o660,
        group: Some(SocketGroup { id, name }),
        ..SocketOptions::new(path)
    }
}

#[test]
fn file_has_the_group_that_was_asked_for() {
    let dir = dir();
    let path = dir.path().join("qmp");
    let id = rustix::process::getgid().as_raw();
    let _listener = Listener::bind(&with_group(&path, id)).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().gid(), id);
    assert_eq!(mode_of(&path), 0o660);
}

#[test]
fn group_that_cannot_be_had_is_named_and_no_file_stays() {
    let dir = dir();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let path = dir.path().join("qmp");
    let bind_as_nobody = || {
        let nobody = Uid::from_raw(65534);
        // Of this thread alone; who is not root is nobody enough.
        let _ = set_thread_res_uid(nobody, nobody, nobody);
        Listener::bind(&with_group(&path, 4_294_967_294)).unwrap_err()
    };
    let error = thread::scope(|scope| scope.spawn(bind_as_nobody).join().unwrap());
    assert!(matches!(error, BindError::Group { .. }), "{error}");
    assert!(
        error.to_string().contains("the group 4294967294"),
        "{error}"
    );
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
