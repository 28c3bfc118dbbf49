package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"

	"github.com/vmware/govmomi/vim25/types"
	"github.com/vmware/govmomi/vim25/xml"
)

// The ways in which a rule makes a call fail.
const (
	modeSOAP    = "soap"    // the call itself answers with the fault
	modeTask    = "task"    // a task is returned; after the delay it fails, or does the work when no fault is named
	modeHTTP503 = "http503" // what a proxy in front of vCenter answers while vpxd restarts
	modeDrop    = "drop"    // the connection closes without an answer
	modeDelay   = "delay"   // the call is answered as usual, late
)

// rule injects one fault. It matches by method (a trailing "*" stands for the rest of the name) and, when set, by the
// moref of the object called, or of the VM whose snapshot is called.
type rule struct {
	Method  string          `json:"method"`
	Object  string          `json:"object"`
	Quiesce bool            `json:"quiesced"` // only calls that ask for a quiesced snapshot
	Mode    string          `json:"mode"`
	Fault   string          `json:"fault"`
	Message string          `json:"message"`
	Fields  json.RawMessage `json:"fields"`
	Nth     int             `json:"nth"`   // the first matching call that fails; 0 is 1
	Count   int             `json:"count"` // how many fail from there on; 0 is all
	DelayMs int             `json:"delay_ms"`
	seen    int
}

type rules struct {
	mu   sync.Mutex
	list []*rule
}

// set replaces the rules; it refuses one that names no known mode or fault, which would else be a test of nothing.
func (r *rules) set(list []*rule) error {
	for _, one := range list {
		if err := one.check(); err != nil {
			return err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = list
	return nil
}

func (r *rule) check() error {
	switch r.Mode {
	case modeHTTP503, modeDrop, modeDelay:
		return nil
	case modeTask:
		if r.Fault == "" {
			return nil
		}
	case modeSOAP:
	default:
		return errors.New("no such mode: " + r.Mode)
	}
	_, err := r.make()
	return err
}

// match counts the call on every rule that fits it, and returns the first that is due, or nil.
func (r *rules) match(q *request) (due *rule) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, one := range r.list {
		if !one.fits(q) {
			continue
		}
		one.seen++
		first := one.Nth
		if first < 1 {
			first = 1
		}
		if due == nil && one.seen >= first && (one.Count == 0 || one.seen < first+one.Count) {
			due = one
		}
	}
	return due
}

func (r *rule) fits(q *request) bool {
	if r.Quiesce && !q.quiesced {
		return false
	}
	if r.Object != "" && r.Object != q.this.Value && (q.owner == nil || r.Object != q.owner.Value) {
		return false
	}
	if strings.HasSuffix(r.Method, "*") {
		return strings.HasPrefix(q.method, strings.TrimSuffix(r.Method, "*"))
	}
	return r.Method == q.method
}

// fault builds the rule's fault object for a call, nil when the rule names none.
func (r *rule) fault(q *request) types.BaseMethodFault {
	if r.Fault == "" {
		return nil
	}
	made, err := r.make()
	if err != nil {
		return &types.SystemError{Reason: err.Error()}
	}
	fillReferences(reflect.ValueOf(made).Elem(), q.this)
	return made
}

func (r *rule) make() (types.BaseMethodFault, error) {
	kind, ok := typeOf(r.Fault)
	if !ok {
		return nil, errors.New("no such fault: " + r.Fault)
	}
	made, ok := reflect.New(kind).Interface().(types.BaseMethodFault)
	if !ok {
		return nil, errors.New("not a fault: " + r.Fault)
	}
	if len(r.Fields) > 0 {
		fields := json.NewDecoder(bytes.NewReader(r.Fields))
		fields.DisallowUnknownFields()
		if err := fields.Decode(made); err != nil {
			return nil, fmt.Errorf("fields of %s: %w", r.Fault, err)
		}
	}
	return made, nil
}

// fillReferences puts the object called where a fault must name one and the rule does not: clients cannot decode an
// empty reference.
func fillReferences(fields reflect.Value, object reference) {
	for i := 0; i < fields.NumField(); i++ {
		switch field := fields.Field(i).Addr().Interface().(type) {
		case *reference:
			if fields.Type().Field(i).Name == "Task" && field.Type == "" {
				*field = reference{Type: "Task", Value: "task-0"}
			} else if field.Type == "" {
				*field = object
			}
		default:
			if fields.Type().Field(i).Anonymous && fields.Field(i).Kind() == reflect.Struct {
				fillReferences(fields.Field(i), object)
			}
		}
	}
}

// fieldsXML is the inside of the fault's element in a SOAP fault.
func (r *rule) fieldsXML(q *request) string {
	text, err := xml.Marshal(r.fault(q))
	if err != nil {
		return ""
	}
	_, inner, _ := strings.Cut(string(text), ">")
	if end := strings.LastIndex(inner, "</"); end >= 0 {
		return inner[:end]
	}
	return ""
}
