package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// hosts are the web servers of the ESX hosts, each on an address and with a certificate of its own, where they hand out
// the bundles of their configuration.
type hosts struct {
	mu      sync.Mutex
	servers map[string]*esxHost // by the host's moref
}

type esxHost struct {
	host        *simulator.HostSystem
	port        int
	certificate tls.Certificate
	bundles     map[string][]byte // by the path they are handed out under
	next        []byte            // what the next bundle is instead of a right one
	address     string            // what the next answer says instead of a right address
}

// serve lets every host listen, on 127.0.1.1, 127.0.1.2 and so on, which becomes its name.
func (h *hosts) serve() (interface{}, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var told []answer
	for i, entity := range simulator.Map.All("HostSystem") {
		host := entity.(*simulator.HostSystem)
		address := fmt.Sprintf("127.0.1.%d", i+1)
		one := &esxHost{host: host, bundles: map[string][]byte{}}
		one.certificate, _ = newCertificate()
		listener, err := tls.Listen("tcp", address+":0", &tls.Config{Certificates: []tls.Certificate{one.certificate}})
		if err != nil {
			return nil, err
		}
		one.port = listener.Addr().(*net.TCPAddr).Port
		go func() { _ = http.Serve(listener, h.handler(one)) }()
		simulator.Map.WithLock(host, func() {
			host.Name, host.Summary.Config.Name = address, address
			host.ConfigManager.FirmwareSystem = &reference{Type: "HostFirmwareSystem", Value: "firmware-" + host.Self.Value}
		})
		h.servers[host.Self.Value] = one
		told = append(told, answer{"host": host.Self.Value, "name": address, "uuid": host.Summary.Hardware.Uuid})
	}
	return told, nil
}

func (h *hosts) handler(one *esxHost) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		bundle, found := one.bundles[r.URL.Path]
		h.mu.Unlock()
		if !found || r.Method != http.MethodGet {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		_, _ = w.Write(bundle)
	})
}

// spoil makes the next bundle of a host something else, or its address.
func (h *hosts) spoil(c *command) (interface{}, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	one := h.servers[c.VM]
	if one == nil {
		return nil, errors.New("no such host: " + c.VM)
	}
	one.next, one.address = c.Data, c.Description
	return answer{}, nil
}

// backupConfiguration makes a bundle of a host's configuration and says where it can be fetched; "*" stands for the host,
// as in a real answer ("Web Services API Reference", BackupFirmwareConfiguration).
func (h *hosts) backupConfiguration(reply http.ResponseWriter, q *request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	one := h.servers[strings.TrimPrefix(q.this.Value, "firmware-")]
	if one == nil {
		sendFault(reply, "ManagedObjectNotFound", "no such object",
			fmt.Sprintf(`<obj type="HostFirmwareSystem">%s</obj>`, escape(q.this.Value)))
		return
	}
	if one.host.Runtime.ConnectionState != types.HostSystemConnectionStateConnected {
		sendFault(reply, "HostNotConnected", "The host is not connected.", "")
		return
	}
	path := "/downloads/" + uuid.NewString() + "/configBundle-" + one.host.Name + ".tgz"
	bundle := one.next
	if bundle == nil {
		bundle = bundleOf(one.host)
	}
	one.bundles[path] = bundle
	address := one.address
	if address == "" {
		address = fmt.Sprintf("https://*:%d%s", one.port, path)
	}
	one.next, one.address = nil, ""
	sendReply(reply, q.method, "<returnval>"+escape(address)+"</returnval>")
}

func bundleOf(host *simulator.HostSystem) []byte {
	state := tarball(map[string]string{"etc/vmware/esx.conf": "/system/uuid = \"" + host.Summary.Hardware.Uuid + "\"\n"})
	manifest := fmt.Sprintf("product=%s\nversion=%s\nbuild=%s\n", host.Summary.Config.Product.Name,
		host.Summary.Config.Product.Version, host.Summary.Config.Product.Build)
	return tarball(map[string]string{"Manifest.txt": manifest, "state.tgz": string(state)})
}

func tarball(files map[string]string) []byte {
	var out bytes.Buffer
	zipped := gzip.NewWriter(&out)
	archive := tar.NewWriter(zipped)
	for name, content := range files {
		check(archive.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(content))}))
		_, err := archive.Write([]byte(content))
		check(err)
	}
	check(archive.Close())
	check(zipped.Close())
	return out.Bytes()
}

// certificateOf answers for the one property that this version of the simulator writes wrongly: xsd:byte is a signed
// number, each in an element of its own.
func (h *hosts) certificateOf(reply http.ResponseWriter, args *types.RetrievePropertiesEx) bool {
	if len(args.SpecSet) != 1 || len(args.SpecSet[0].PropSet) != 1 || len(args.SpecSet[0].ObjectSet) != 1 {
		return false
	}
	asked := args.SpecSet[0].PropSet[0]
	if asked.Type != "HostSystem" || len(asked.PathSet) != 1 || asked.PathSet[0] != "config.certificate" {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	host := args.SpecSet[0].ObjectSet[0].Obj
	one := h.servers[host.Value]
	if one == nil {
		return false
	}
	var bytes strings.Builder
	for _, b := range pemOf(one.certificate) {
		fmt.Fprintf(&bytes, "<byte>%d</byte>", int8(b))
	}
	sendReply(reply, "RetrievePropertiesEx", fmt.Sprintf(`<returnval><objects><obj type="HostSystem">%s</obj><propSet>`+
		`<name>config.certificate</name><val xsi:type="ArrayOfByte">%s</val></propSet></objects></returnval>`,
		escape(host.Value), bytes.String()))
	return true
}

func pemOf(certificate tls.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Certificate[0]})
}
