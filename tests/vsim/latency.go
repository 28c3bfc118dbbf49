package main

import (
	"fmt"
	"net/http"
	"path"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// The counters datastore.totalReadLatency.average and datastore.totalWriteLatency.average as the stock simulator numbers
// them. It has no figures for them.
const readLatency, writeLatency = 182, 183

// queryPerf answers QueryPerf on a host for the latency of datastores: what a test has set, by the last part of the
// datastore's URL, as a host names its instances.
func (v *vcenter) queryPerf(w http.ResponseWriter, args *types.QueryPerf) {
	var out strings.Builder
	for _, spec := range args.QuerySpec {
		if spec.Entity.Type != "HostSystem" || spec.IntervalId != 20 {
			sendFault(w, "InvalidArgument", "A specified parameter was not correct: querySpec.interval", "<invalidProperty>querySpec.interval</invalidProperty>")
			return
		}
		fmt.Fprintf(&out, `<returnval xsi:type="PerfEntityMetric"><entity type="HostSystem">%s</entity>`, escape(spec.Entity.Value))
		for _, metric := range spec.MetricId {
			if latency, known := v.latencyOf(metric.Instance); known && (metric.CounterId == readLatency || metric.CounterId == writeLatency) {
				fmt.Fprintf(&out, `<value xsi:type="PerfMetricIntSeries"><id><counterId>%d</counterId><instance>%s</instance></id><value>%d</value></value>`,
					metric.CounterId, escape(metric.Instance), latency)
			}
		}
		out.WriteString(`</returnval>`)
	}
	sendReply(w, "QueryPerf", out.String())
}

func (v *vcenter) latencyOf(instance string) (int64, bool) {
	for _, entity := range simulator.Map.All("Datastore") {
		ds := entity.(*simulator.Datastore)
		if path.Base(strings.TrimRight(ds.Info.GetDatastoreInfo().Url, "/")) == instance {
			latency, known := v.latencies[ds.Name]
			return latency, known
		}
	}
	return 0, false
}
