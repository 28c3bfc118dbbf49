"""Configuration files for tests to bend."""

from pathlib import Path

PROXY = """\
state: /var/lib/offhost
vcenters:
  main:
    host: vc.example.org
    user: offhost@vsphere.local
    password: "{credential vc-main}"
    ca_file: /etc/offhost/vc.pem
datastores:
  - { vcenter: main, name: nfs-prod, path: /mnt/nfs-prod, direct_io: true }
repositories:
  main: { path: /srv/backup, passphrase: "{file /etc/offhost/passphrase}" }
"""

JOB = """\
job: nightly
schedule: { cron: "0 22 * * mon-fri", timezone: Europe/Zurich }
vcenter: main
select:
  include: [ { name: "db-*" } ]
repository: main
"""


class Files:
    """proxy.yaml and jobs.d in a folder of their own, with the examples above until a test writes others."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "proxy.yaml"
        (folder / "jobs.d").mkdir()
        self.proxy(PROXY)
        self.job("nightly.yaml", JOB)

    def proxy(self, text: str) -> None:
        self.file.write_text(text)

    def job(self, name: str, text: str) -> None:
        (self.file.parent / "jobs.d" / name).write_text(text)
