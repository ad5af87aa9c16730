"""Ways of keeping HAProxy in sync with Consul, behind one interface, `Way`, and by their names: `WAYS`."""

from collections.abc import Mapping

from tests.lab.ways.consultemplate import ConsulTemplateAtOnce, ConsulTemplateWaits
from tests.lab.ways.dataplane import DocumentedDataPlane, FastDataPlane
from tests.lab.ways.dns import DnsSrv, FastDnsSrv
from tests.lab.ways.hapsync import HapsyncDynamic, HapsyncSlots
from tests.lab.ways.plug import PluggedReload
from tests.lab.ways.rendered import Reload, Restart, SeamlessReload
from tests.lab.ways.way import Place, UnavailableError, Way, WayError

__all__ = ["WAYS", "HapsyncDynamic", "Place", "Restart", "UnavailableError", "Way", "WayError"]

WAYS: Mapping[str, type[Way]] = {
    way.name: way
    for way in (
        Restart,
        Reload,
        PluggedReload,
        SeamlessReload,
        ConsulTemplateAtOnce,
        ConsulTemplateWaits,
        FastDataPlane,
        DocumentedDataPlane,
        DnsSrv,
        FastDnsSrv,
        HapsyncSlots,
        HapsyncDynamic,
    )
}
"""By name, in the order of the report."""
