package main

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"sort"
	"strconv"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// Change tracking, as a host keeps it: a bitmap of 64 KiB grains for each disk, written only while tracking is active.
// It becomes active at the first stun after the switch, and a change id is "tracker's UUID/epoch"; a snapshot ends an
// epoch. A tracker that was switched off is gone for good: the next one has another UUID and knows nothing of before.
const grainBits = 16

type tracker struct {
	uuid   string
	epoch  int
	writes []trackedWrite
}

type trackedWrite struct {
	epoch int
	span
}

func newTracker() *tracker {
	var b [16]byte
	_, _ = rand.Read(b[:])
	return &tracker{uuid: fmt.Sprintf("% x-% x", b[:8], b[8:]), epoch: 1}
}

func (t *tracker) changeID() string { return fmt.Sprintf("%s/%d", t.uuid, t.epoch) }

// epochOf reads a change id of this tracker; ok is false for any other's.
func (t *tracker) epochOf(changeID string) (epoch int, ok bool) {
	number := strings.TrimPrefix(changeID, t.uuid+"/")
	if number == changeID {
		return 0, false
	}
	epoch, err := strconv.Atoi(number)
	return epoch, err == nil
}

// between lists what was written after the change id `since` was handed out and until `upto` was.
func (t *tracker) between(since, upto int) (spans []span) {
	for _, w := range t.writes {
		if w.epoch > since && w.epoch <= upto {
			spans = append(spans, w.span)
		}
	}
	return spans
}

func trackingSwitchedOn(vm *simulator.VirtualMachine) bool {
	return vm.Config.ChangeTrackingEnabled != nil && *vm.Config.ChangeTrackingEnabled
}

// stun is the moment at which a switched-on tracking becomes active: the disks are closed and opened again.
func (v *vcenter) stun(vm *simulator.VirtualMachine) {
	if !trackingSwitchedOn(vm) {
		return
	}
	for _, disk := range disksOf(vm.Config.Hardware.Device) {
		uuid := backingOf(disk).Uuid
		if v.trackers[uuid] == nil {
			v.trackers[uuid] = newTracker()
		}
	}
}

// forgetTracking drops the trackers of a VM whose tracking is switched off.
func (v *vcenter) forgetTracking(vm *simulator.VirtualMachine) {
	if trackingSwitchedOn(vm) {
		return
	}
	for _, disk := range disksOf(vm.Config.Hardware.Device) {
		delete(v.trackers, backingOf(disk).Uuid)
	}
}

func (v *vcenter) queryChangedDiskAreas(w http.ResponseWriter, ref types.ManagedObjectReference, q *types.QueryChangedDiskAreas) {
	vm := findVM(ref.Value)
	if vm == nil {
		sendFault(w, "ManagedObjectNotFound", "The object has already been deleted", `<obj type="VirtualMachine">`+ref.Value+`</obj>`)
		return
	}
	disk := snapshotDisk(q.Snapshot, q.DeviceKey)
	if disk == nil && q.Snapshot == nil {
		disk = diskByKey(vm.Config.Hardware.Device, q.DeviceKey)
	}
	if disk == nil {
		sendFault(w, "InvalidArgument", "A specified parameter was not correct: deviceKey", "<invalidProperty>deviceKey</invalidProperty>")
		return
	}
	size := disk.CapacityInKB * 1024
	if q.StartOffset < 0 || q.StartOffset >= size {
		sendFault(w, "InvalidArgument", "A specified parameter was not correct: startOffset", "<invalidProperty>startOffset</invalidProperty>")
		return
	}
	changed, problem := v.changedSpans(vm, disk, q)
	if problem != "" {
		sendFault(w, "FileFault", problem, "<file>"+escape(backingOf(disk).FileName)+"</file>")
		return
	}
	areas, covered := clipAreas(changed, q.StartOffset, size, v.areasPerCall)
	var list strings.Builder
	for _, area := range areas {
		fmt.Fprintf(&list, "<changedArea><start>%d</start><length>%d</length></changedArea>", area.start, area.length)
	}
	sendReply(w, "QueryChangedDiskAreas", fmt.Sprintf("<returnval><startOffset>%d</startOffset><length>%d</length>%s</returnval>",
		q.StartOffset, covered-q.StartOffset, list.String()))
}

func (v *vcenter) changedSpans(vm *simulator.VirtualMachine, disk *types.VirtualDisk, q *types.QueryChangedDiskAreas) ([]span, string) {
	t := v.trackers[backingOf(disk).Uuid]
	if t == nil || !trackingSwitchedOn(vm) {
		return nil, "Change tracking is not active on the disk"
	}
	if q.ChangeId == "*" {
		held, err := allocatedIn(linksOf(backingOf(disk)))
		if err != nil {
			return nil, err.Error()
		}
		return held, ""
	}
	since, ok := t.epochOf(q.ChangeId)
	if !ok {
		return nil, "Error caused by file: the change id belongs to another change tracking"
	}
	upto := t.epoch
	if q.Snapshot != nil {
		if upto, ok = t.epochOf(backingOf(disk).ChangeId); !ok {
			return nil, "Error caused by file: the snapshot was taken under another change tracking"
		}
	}
	return without(t.between(since, upto), v.unreported[backingOf(disk).Uuid]), ""
}

// without cuts out of spans what lies in any of the others.
func without(spans, others []span) []span {
	for _, other := range others {
		var left []span
		for _, s := range spans {
			if stop := min64(s.end(), other.start); s.start < stop {
				left = append(left, span{s.start, stop - s.start})
			}
			if start := max64(s.start, other.end()); start < s.end() {
				left = append(left, span{start, s.end() - start})
			}
		}
		spans = left
	}
	return spans
}

// clipAreas turns spans into sorted areas of whole grains from `from` on, at most `limit`, and says how far they tell
// the whole truth: to the end of the disk, or to the end of the last area when there are more.
func clipAreas(spans []span, from, size int64, limit int) (areas []span, covered int64) {
	sort.Slice(spans, func(i, j int) bool { return spans[i].start < spans[j].start })
	for _, s := range spans {
		start := max64(s.start>>grainBits<<grainBits, from)
		stop := min64((s.start+s.length+1<<grainBits-1)>>grainBits<<grainBits, size)
		last := len(areas) - 1
		switch {
		case stop <= start: // it lies wholly before
		case last >= 0 && start <= areas[last].end():
			areas[last].length = max64(stop, areas[last].end()) - areas[last].start
		case len(areas) == limit:
			return areas, areas[last].end()
		default:
			areas = append(areas, span{start, stop - start})
		}
	}
	return areas, size
}
