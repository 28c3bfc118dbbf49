package main

import (
	"io"
	"net/http"
	"os"
	"path"
	"strings"
	"time"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// serveFolder is a datastore over HTTPS: /folder/DIR/FILE?dcPath=DC&dsName=DS. It asks for a session, serves ranges,
// takes whole files, has nothing of vSAN, and refuses the extents of a running VM, which its host keeps locked.
func (v *vcenter) serveFolder(w http.ResponseWriter, r *http.Request) {
	counted := &countingWriter{ResponseWriter: w}
	received := &countingReader{ReadCloser: r.Body}
	r.Body = received
	defer func() { v.journal.folder(counted.sent, received.read) }()
	if !v.sessions.known(r) {
		counted.WriteHeader(http.StatusUnauthorized)
		return
	}
	if v.roles.lacks(v.sessions.user(r), folderNeeds(r)) != nil {
		counted.WriteHeader(http.StatusForbidden)
		return
	}
	ds := findDatastore(r.URL.Query().Get("dsName"))
	if ds == nil || strings.Trim(r.URL.Query().Get("dcPath"), "/") != datacenter.Name || ds.Summary.Type == "vsan" {
		http.NotFound(counted, r)
		return
	}
	name := path.Clean("/" + strings.TrimPrefix(r.URL.Path, "/folder/"))
	file := path.Join(ds.Info.GetDatastoreInfo().Url, name)
	if due := v.rules.match(&request{method: "folder:" + r.Method, this: reference{Value: name}}); due != nil && spoil(counted, due) {
		return
	}
	if v.locked(ds.Name, name) {
		http.Error(counted, "the file is locked by a running virtual machine", http.StatusInternalServerError)
		return
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		sendFile(counted, r, file)
	case http.MethodPut:
		receiveFile(counted, r, file)
	case http.MethodDelete:
		if os.Remove(file) != nil {
			http.NotFound(counted, r)
			return
		}
		counted.WriteHeader(http.StatusNoContent)
	default:
		counted.WriteHeader(http.StatusMethodNotAllowed)
	}
}

// spoil does what a rule for "folder:GET", say, wants done, and says whether that was the answer.
func spoil(w *countingWriter, due *rule) bool {
	time.Sleep(time.Duration(due.DelayMs) * time.Millisecond)
	switch due.Mode {
	case modeDelay:
		return false
	case modeDrop:
		if connection, _, err := w.ResponseWriter.(http.Hijacker).Hijack(); err == nil {
			connection.Close()
		}
	default:
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	return true
}

func sendFile(w http.ResponseWriter, r *http.Request, file string) {
	f, err := os.Open(file)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.IsDir() {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, info.Name(), info.ModTime(), f)
}

func receiveFile(w http.ResponseWriter, r *http.Request, file string) {
	if r.Header.Get("Content-Range") != "" { // a host takes whole files only
		w.WriteHeader(http.StatusNotImplemented)
		return
	}
	status := http.StatusOK
	if _, err := os.Stat(file); err != nil {
		status = http.StatusCreated
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil { // the directory must be there
		http.Error(w, "the directory does not exist", http.StatusNotFound)
		return
	}
	defer f.Close()
	if _, err := io.Copy(f, r.Body); err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	w.WriteHeader(status)
}

// locked says whether a running VM has that file, or one beneath that directory, as an extent of a disk: its host keeps
// them locked, the frozen ones too.
func (v *vcenter) locked(datastore, name string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	prefix := "[" + datastore + "] "
	root := localPath(prefix)
	file := path.Join(root, name)
	for _, entity := range simulator.Map.All("VirtualMachine") {
		vm := entity.(*simulator.VirtualMachine)
		if vm.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOn {
			continue
		}
		for disk := range graphOf(vm).known {
			descriptorFile := path.Join(root, strings.TrimPrefix(disk, prefix))
			near := path.Dir(descriptorFile) == path.Dir(file) || strings.HasPrefix(descriptorFile, file+"/")
			if !strings.HasPrefix(disk, prefix) || !near {
				continue
			}
			d, err := readDescriptor(descriptorFile)
			if err == nil && strings.HasPrefix(d.extentPath(descriptorFile)+"/", file+"/") {
				return true
			}
		}
	}
	return false
}

// refuseLocked keeps a client from deleting or moving what a running VM uses, or anything outside of a datastore.
func (v *vcenter) refuseLocked(name string) types.BaseMethodFault {
	p := object.DatastorePath{}
	if !p.FromString(name) || strings.HasPrefix(path.Clean(p.Path), "..") {
		return &types.InvalidDatastorePath{DatastorePath: name}
	}
	if v.locked(p.Datastore, p.Path) {
		return &types.FileLocked{FileFault: types.FileFault{File: name}}
	}
	return nil
}

type countingWriter struct {
	http.ResponseWriter
	sent int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.sent += int64(n)
	return n, err
}

type countingReader struct {
	io.ReadCloser
	read int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.read += int64(n)
	return n, err
}
