package main

import (
	"fmt"
	"net/http"
	"os"
	"path"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// quiescing is what the tests say of guests: which have VSS writers that answer, and which hosts flag a snapshot as
// quiesced whatever the guest did. asked keeps the last specification by VM.
type quiescing struct {
	writers map[string]bool
	claims  map[string]bool
	asked   map[string]types.BaseVirtualMachineGuestQuiesceSpec
	oldAPI  bool // an endpoint from before vSphere 6.5
}

func newQuiescing() quiescing {
	return quiescing{map[string]bool{}, map[string]bool{}, map[string]types.BaseVirtualMachineGuestQuiesceSpec{}, false}
}

// refuse holds a specification to what the API says of it ("VirtualMachineGuestQuiesceSpec": 5 to 240 minutes).
func (s *quiescing) refuse(spec types.BaseVirtualMachineGuestQuiesceSpec) types.BaseMethodFault {
	if spec == nil {
		return nil
	}
	if timeout := spec.GetVirtualMachineGuestQuiesceSpec().Timeout; timeout != 0 && (timeout < 5 || timeout > 240) {
		return &types.InvalidArgument{InvalidProperty: "quiesceSpec.timeout"}
	}
	if windows, ok := spec.(*types.VirtualMachineWindowsQuiesceSpec); ok {
		switch windows.VssBackupContext {
		case "", "ctx_auto", "ctx_backup", "ctx_file_share_backup":
		default:
			return &types.InvalidArgument{InvalidProperty: "quiesceSpec.vssBackupContext"}
		}
		if windows.VssBackupType < 0 || windows.VssBackupType > 6 {
			return &types.InvalidArgument{InvalidProperty: "quiesceSpec.vssBackupType"}
		}
	}
	return nil
}

// done is called with a snapshot that was taken: writers that took part leave a manifest beside the VM's files, and the
// snapshot names it. Without them, as for file shares only, there is none.
func (s *quiescing) done(vm *simulator.VirtualMachine, ref reference, q *request) error {
	var spec types.BaseVirtualMachineGuestQuiesceSpec
	if args, ok := q.args.(*types.CreateSnapshotEx_Task); ok {
		spec = args.QuiesceSpec
	}
	s.asked[vm.Self.Value] = spec
	node := findNode(vm.Snapshot.RootSnapshotList, ref)
	if node == nil || !q.quiesced {
		return nil
	}
	windows, _ := spec.(*types.VirtualMachineWindowsQuiesceSpec)
	shares := windows != nil && windows.VssBackupContext == "ctx_file_share_backup"
	manifest := ""
	if node.Quiesced && s.writers[vm.Self.Value] && !shares {
		manifest = fmt.Sprintf("%s-vss_manifests%d.zip", vm.Name, node.Id)
		if err := os.WriteFile(path.Join(folderOf(vm), manifest), []byte("PK manifests of VSS writers"), 0o600); err != nil {
			return err
		}
	}
	simulator.Map.WithLock(vm, func() {
		node.BackupManifest = manifest
		node.Quiesced = node.Quiesced || s.claims[vm.Self.Value]
	})
	return nil
}

// tidy removes the manifests whose snapshots are gone.
func (s *quiescing) tidy(vm *simulator.VirtualMachine) {
	kept := map[string]bool{}
	if vm.Snapshot != nil {
		walkTree(vm.Snapshot.RootSnapshotList, func(node types.VirtualMachineSnapshotTree) { kept[node.BackupManifest] = true })
	}
	entries, _ := os.ReadDir(folderOf(vm))
	for _, entry := range entries {
		if strings.Contains(entry.Name(), "-vss_manifests") && !kept[entry.Name()] {
			os.Remove(path.Join(folderOf(vm), entry.Name()))
		}
	}
}

func (s *quiescing) carryOut(vm *simulator.VirtualMachine, c *command) answer {
	switch c.Do {
	case "vss_writers":
		s.writers[vm.Self.Value] = c.Flag
	case "claim_quiesced":
		s.claims[vm.Self.Value] = c.Flag
	case "quiesce_asked":
		switch spec := s.asked[vm.Self.Value].(type) {
		case *types.VirtualMachineWindowsQuiesceSpec:
			return answer{
				"timeout": spec.Timeout, "backup_type": spec.VssBackupType, "context": spec.VssBackupContext,
				"bootable_system_state": spec.VssBootableSystemState, "partial_file_support": spec.VssPartialFileSupport,
			}
		case *types.VirtualMachineGuestQuiesceSpec:
			return answer{"timeout": spec.Timeout}
		}
	}
	return answer{}
}

func findNode(tree []types.VirtualMachineSnapshotTree, ref reference) *types.VirtualMachineSnapshotTree {
	for i := range tree {
		if tree[i].Snapshot == ref {
			return &tree[i]
		}
		if found := findNode(tree[i].ChildSnapshotList, ref); found != nil {
			return found
		}
	}
	return nil
}

func folderOf(vm *simulator.VirtualMachine) string {
	return path.Dir(localPath(vm.Config.Files.VmPathName))
}

// serveVersions tells clients which versions of the API there are: an old endpoint knows none after 6.0.
func (v *vcenter) serveVersions(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	old := v.quiescing.oldAPI
	v.mu.Unlock()
	if !old {
		v.stock.ServeHTTP(w, r)
		return
	}
	w.Header().Set("Content-Type", "text/xml")
	fmt.Fprint(w, `<?xml version="1.0" encoding="UTF-8"?><namespaces version="1.0"><namespace><name>urn:vim25</name>`+
		`<version>6.0</version><priorVersions><version>5.5</version></priorVersions></namespace></namespaces>`)
}
