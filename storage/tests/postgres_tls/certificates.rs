//! An authority, and certificates of it: the right one, one for another name, one that has expired.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::postgres_rig::Server;

/// A folder of them.
pub struct Certificates {
    folder: TempDir,
}

impl Certificates {
    /// With `openssl`, which is where a PostgreSQL with TLS is.
    pub fn make() -> Self {
        let folder = TempDir::new().unwrap();
        let made = Command::new("sh")
            .args(["-ec", MAKE])
            .current_dir(folder.path())
            .output()
            .unwrap();
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        Self { folder }
    }

    pub fn authority(&self) -> PathBuf {
        self.folder.path().join("authority.pem")
    }

    pub fn other_authority(&self) -> PathBuf {
        self.folder.path().join("other.pem")
    }

    /// Has the server show this one from now on.
    pub fn give(&self, server: &Server, name: &str) {
        let path = |ending: &str| -> PathBuf {
            let file = format!("{name}.{ending}");
            self.folder.path().join(file)
        };
        for file in [path("key"), path("pem")] {
            run("chmod", &["u=rw,go="], &file);
            if rustix::process::geteuid().is_root() {
                run("chown", &["postgres"], &file);
            }
        }
        run("chmod", &["a+rx"], self.folder.path());
        server.set(&format!("ssl_key_file = '{}'", path("key").display()));
        server.set(&format!("ssl_cert_file = '{}'", path("pem").display()));
        server.set("ssl = on");
        server.stop();
        server.up();
    }
}

fn run(program: &str, arguments: &[&str], file: &Path) {
    let done = Command::new(program).args(arguments).arg(file).status();
    assert!(done.unwrap().success());
}

const MAKE: &str = r#"
for name in authority other; do
    openssl req -x509 -newkey rsa:2048 -nodes -keyout $name.key -out $name.pem -days 2 \
        -subj /CN=$name 2>/dev/null
done
cat >ca.cnf <<END
[ca]
default_ca = one
[one]
database = index.txt
serial = serial.txt
new_certs_dir = .
default_md = sha256
policy = policy
unique_subject = no
[policy]
commonName = supplied
END
: >index.txt
echo 01 >serial.txt
make() {
    printf 'subjectAltName=%s' "$2" >$1.ext
    openssl req -newkey rsa:2048 -nodes -keyout $1.key -out $1.csr -subj /CN=$1 2>/dev/null
    openssl ca -batch -notext -config ca.cnf -cert authority.pem -keyfile authority.key \
        -in $1.csr -out $1.pem -startdate $3 -enddate $4 -extfile $1.ext
}
make right DNS:localhost,IP:127.0.0.1 20200101000000Z 20490101000000Z
make elsewhere DNS:db.example 20200101000000Z 20490101000000Z
make expired DNS:localhost 20200101000000Z 20200201000000Z
"#;
