// vsim is a vCenter to test against: govmomi's simulator with a front that is as strict as a real one where a backup
// depends on it. It serves on loopback, prints where as one line of JSON, takes commands of the test as lines of JSON on
// standard input, and exits when that ends.
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/simulator"
	_ "github.com/vmware/govmomi/vapi/simulator" // tags, under /rest
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"
)

// datastores collects -ds NAME=TYPE:DIRECTORY.
type datastores []string

func (d *datastores) String() string     { return strings.Join(*d, " ") }
func (d *datastores) Set(s string) error { *d = append(*d, s); return nil }

func main() {
	var stores datastores
	flag.Var(&stores, "ds", "a datastore, NAME=TYPE:DIRECTORY (repeatable)")
	machines := flag.Int("vm", 0, "VMs that are there from the start, in the inventory's one pool")
	scratch := flag.String("scratch", "", "a directory to delete in the end, should the one who made it have died")
	user := flag.String("user", "administrator@vsphere.local", "user name")
	flag.Parse()
	log.SetOutput(os.Stderr)
	password := uuid.NewString()

	model := simulator.VPX()
	model.Machine, model.Host, model.Datastore = *machines, 0, 0
	if *machines > 0 {
		model.Datastore = 1
	}
	check(model.Create())
	defer model.Remove()
	datacenter = simulator.Map.Any("Datacenter").(*simulator.Datacenter)
	service := model.Service
	service.RegisterEndpoints = true
	service.TLS = new(tls.Config)
	service.Listen = &url.URL{Host: "127.0.0.1:0", User: url.UserPassword(*user, password)}
	inner := service.NewServer() // its own listener serves only vAPI's client inside this process
	defer inner.Close()
	for _, store := range stores {
		check(addDatastore(service, store))
	}

	v := &vcenter{
		service: service, administrator: service.Listen.User, stock: service.ServeMux, sessions: newSessions(), trackers: map[string]*tracker{},
		hosts: hosts{servers: map[string]*esxHost{}}, shutdowns: map[string]time.Duration{}, startTools: map[string]bool{}, unreported: map[string][]span{}, quiescing: newQuiescing(),
		areasPerCall: 2000, stuck: map[string]bool{}, latencies: map[string]int64{},
	}
	for _, entity := range simulator.Map.All("VirtualMachine") {
		check(v.reconfigured(entity.(*simulator.VirtualMachine)))
	}
	service.Listen.User = nil // who may log in is for the front to say: the stock simulator has one account
	certificate, thumbprint := newCertificate()
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{certificate}})
	check(err)
	simulator.Map.SessionManager().ServiceHostName = listener.Addr().String()
	go func() { log.Print(http.Serve(listener, v.routes())) }()

	check(json.NewEncoder(os.Stdout).Encode(map[string]interface{}{
		"port": listener.Addr().(*net.TCPAddr).Port, "user": *user, "password": password, "thumbprint": thumbprint,
	}))
	v.obey(os.Stdin, os.Stdout)
	if *scratch != "" {
		os.RemoveAll(*scratch)
	}
}

func (v *vcenter) routes() http.Handler {
	front := http.NewServeMux()
	front.HandleFunc("/sdk", v.serveSDK)
	front.HandleFunc("/sdk/vimServiceVersions.xml", v.serveVersions)
	front.HandleFunc("/folder/", v.serveFolder)
	front.HandleFunc("/rest/", v.serveREST)
	front.Handle("/", v.stock)
	return front
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// addDatastore mounts a directory as a datastore on every host.
func addDatastore(service *simulator.Service, flagValue string) error {
	name, rest, _ := strings.Cut(flagValue, "=")
	kind, directory, found := strings.Cut(rest, ":")
	if !found {
		return fmt.Errorf("-ds %s: want NAME=TYPE:DIRECTORY", flagValue)
	}
	for _, entity := range simulator.Map.All("HostSystem") {
		host := entity.(*simulator.HostSystem)
		request := types.CreateLocalDatastore{This: *host.ConfigManager.DatastoreSystem, Name: name, Path: directory}
		reply := methods.CreateLocalDatastoreBody{}
		err := service.RoundTrip(context.Background(), &methods.CreateLocalDatastoreBody{Req: &request}, &reply)
		if err != nil {
			return err
		}
	}
	findDatastore(name).Summary.Type = kind
	return nil
}

// newCertificate makes a self-signed one, as a fresh vCenter has, and its SHA-256 thumbprint.
func newCertificate() (tls.Certificate, string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	check(err)
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "vcenter.test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(2, 0, 0),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
		BasicConstraintsValid: true, IsCA: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	check(err)
	sum := sha256.Sum256(der)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, strings.ReplaceAll(fmt.Sprintf("% X", sum), " ", ":")
}
