package main

import (
	"fmt"
	"net/http"
	"strings"
	"sync"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// roles are the accounts beside the administrator's: each has exactly the privileges it was given, and besides the three
// that every role has: System.Anonymous, System.View and System.Read.
type roles struct {
	mu    sync.Mutex
	known map[string]role // by the user's name
}

// role: a grant is a privilege everywhere, or, as "PRIVILEGE@WHERE", on one object by its moref or on all of a kind;
// what is granted on VM folders reaches the VMs in them.
type role struct {
	password string
	grants   map[string]bool
}

var everyRole = []string{"System.Anonymous", "System.View", "System.Read"}

func (r *roles) set(user, password string, grants []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.known == nil {
		r.known = map[string]role{}
	}
	granted := map[string]bool{}
	for _, one := range append(grants, everyRole...) {
		granted[one] = true
	}
	r.known[user] = role{password, granted}
}

func (r *roles) find(user string) (role, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	found, limited := r.known[user]
	return found, limited
}

func (r role) has(one need) bool {
	for _, where := range []string{"", "@" + kindOf(one.on), "@" + one.on.Value} {
		if r.grants[one.privilege+where] {
			return true
		}
	}
	return one.on.Type == "VirtualMachine" && r.grants[one.privilege+"@Folder"]
}

// kindOf is what grants call an object's kind: "Folder" is a folder of VMs, "RootFolder" the top.
func kindOf(object reference) string {
	switch {
	case object.Type == "DistributedVirtualPortgroup":
		return "Network"
	case object == *datacenter.Parent:
		return "RootFolder"
	}
	return object.Type
}

// lacks is the first of the needs that the user's role does not meet, nil when it meets all; the administrator may
// everything.
func (r *roles) lacks(user string, wanted []need) *need {
	found, limited := r.find(user)
	if !limited {
		return nil
	}
	for _, one := range wanted {
		if !found.has(one) {
			return &one
		}
	}
	return nil
}

func sendNoPermission(w http.ResponseWriter, lacks *need) {
	sendFault(w, "NoPermission", "Permission to perform this operation was denied.", fmt.Sprintf(
		`<object type="%s">%s</object><privilegeId>%s</privilegeId>`, lacks.on.Type, escape(lacks.on.Value), escape(lacks.privilege)))
}

// answerOnPrivileges answers what AuthorizationManager is asked about a limited user; false for the administrator, of
// whom the stock simulator says that he may everything.
func (v *vcenter) answerOnPrivileges(w http.ResponseWriter, q *request) bool {
	found, limited := v.roles.find(v.sessions.user(q.http))
	if !limited {
		return false
	}
	var reply strings.Builder
	switch args := q.args.(type) {
	case *types.HasPrivilegeOnEntities:
		for _, entity := range args.Entity {
			fmt.Fprintf(&reply, `<returnval><entity type="%s">%s</entity>`, entity.Type, escape(entity.Value))
			for _, one := range args.PrivId {
				fmt.Fprintf(&reply, `<privAvailability><privId>%s</privId><isGranted>%v</isGranted></privAvailability>`,
					escape(one), found.has(need{one, entity}))
			}
			reply.WriteString(`</returnval>`)
		}
	case *types.FetchUserPrivilegeOnEntities:
		for _, entity := range args.Entities {
			fmt.Fprintf(&reply, `<returnval><entity type="%s">%s</entity>`, entity.Type, escape(entity.Value))
			for grant := range found.grants {
				if one, _, _ := strings.Cut(grant, "@"); found.has(need{one, entity}) {
					fmt.Fprintf(&reply, `<privileges>%s</privileges>`, escape(one))
				}
			}
			reply.WriteString(`</returnval>`)
		}
	default:
		return false
	}
	sendReply(w, q.method, reply.String())
	return true
}

// gone says whether the snapshot that is called does not exist: that is then the answer, whoever asks.
func gone(q *request) bool {
	return q.this.Type == "VirtualMachineSnapshot" && simulator.Map.Get(q.this) == nil
}
