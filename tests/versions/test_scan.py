"""The short form of the scan: the HAProxy under test lives with every case, and added servers are as recorded."""

from tests.harness.processes import short_folder
from tests.harness.tools import haproxy_path
from tests.scan.listener import make_certificates
from tests.scan.record import news, read
from tests.scan.scanning import outcome, scan, version_of


def test_haproxy_lives_with_each_case_and_added_servers_are_as_recorded() -> None:
    program, record = haproxy_path(), read()
    version = ".".join(version_of(program).split(".")[:2])
    found = scan(program, is_short=True)
    odd = [name for name, what in found.items() if news(record, version, {name: what})]
    if odd and version in record.haproxy:
        # Alone and at leisure, for on a busy machine a check may not be over in time.
        with short_folder() as folder:
            certificates = make_certificates(folder)
            found = {name: outcome(program, name, certificates) for name in odd}

    assert news(record, version, found) == []
