package main

import (
	"io"
	"net/http"
	"os"
	"path"
	"strings"

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
	ds := findDatastore(r.URL.Query().Get("dsName"))
	if ds == nil || !datacenterExists(r.URL.Query().Get("dcPath")) || ds.Summary.Type == "vsan" {
		http.NotFound(counted, r)
		return
	}
	name := path.Clean("/" + strings.TrimPrefix(r.URL.Path, "/folder/"))
	file := path.Join(ds.Info.GetDatastoreInfo().Url, name)
	if v.lockedFiles()[file] {
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

func datacenterExists(name string) bool {
	for _, entity := range simulator.Map.All("Datacenter") {
		if entity.Entity().Name == strings.Trim(name, "/") {
			return true
		}
	}
	return false
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

// lockedFiles are the extents of every running VM's disks, frozen ones included.
func (v *vcenter) lockedFiles() map[string]bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	locked := map[string]bool{}
	for _, entity := range simulator.Map.All("VirtualMachine") {
		vm := entity.(*simulator.VirtualMachine)
		if vm.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOn {
			continue
		}
		for name := range graphOf(vm).known {
			file := localPath(name)
			if d, err := readDescriptor(file); err == nil {
				locked[d.extentPath(file)] = true
			}
		}
	}
	return locked
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
