//! The demo's machine without the demo: console and socket are the user's.

use std::process::Command;

use super::{OUTER_BINARY, OUTER_INITRAMFS, OUTER_KERNEL, outer};
use crate::error::Result;
use crate::job::{DemoFiles, Job};
use crate::kernel::Kernel;
use crate::outer::Console;
use crate::process;
use crate::workspace::Workspace;

/// A negotiation, a question and an answer, to paste.
const QMP_LINES: &str = r#"    {"execute": "qmp_capabilities"}
    {"execute": "balloon", "arguments": {"value": 268435456}}
    {"execute": "query-balloon"}"#;

/// Runs the machine on this terminal.
pub(super) fn direct(workspace: &Workspace, files: &DemoFiles) -> Result<()> {
    let socket = workspace.linux()?.join("demo.sock");
    println!(
        "\nThe guest's console follows here. Its memory is steered from another terminal:\n\n    \
         socat READLINE UNIX-CONNECT:{}\n\nthere, line by line:\n\n{QMP_LINES}\n\n\
         `poweroff -f` in the guest ends it.\n",
        socket.display()
    );
    process::run(
        Command::new(&files.binary)
            .arg("--kernel")
            .arg(&files.kernel)
            .arg("--initrd")
            .arg(&files.initramfs)
            .args(["--mem", &format!("{}M", files.mem_mib)])
            .arg("--qmp")
            .arg(&socket),
    )
}

/// Gives the user a shell in the outer machine, with all that is needed there.
pub(super) fn nested(workspace: &Workspace, kernel: &Kernel, files: &DemoFiles) -> Result<()> {
    let start = format!(
        "aerostat --kernel {OUTER_KERNEL} --initrd {OUTER_INITRAMFS} --mem {}M --qmp /tmp/qmp.sock",
        files.mem_mib
    );
    let hint = format!(
        "\nThis is a shell in the outer machine; {OUTER_BINARY} and socat are in it.\n\n\
         To use the guest's console (`poweroff -f` in the guest comes back here):\n\n    {start}\n\n\
         To steer its memory, with the console in a file:\n\n    \
         {start} --serial file:/tmp/console &\n    \
         socat - UNIX-CONNECT:/tmp/qmp.sock\n\nand then, line by line:\n\n{QMP_LINES}\n\n\
         `exit` ends the outer machine.\n"
    );
    let mut outer = outer(
        workspace,
        kernel,
        files,
        Job::Shell { hint },
        Console::Terminal,
    );
    let socat = process::find_on_path("socat").unwrap_or_else(|| "/usr/bin/socat".into());
    outer.programs.push(("/bin/socat".to_owned(), socat));
    println!("Starting the outer machine on this terminal; it takes some seconds");
    outer.run(|_| {})
}
