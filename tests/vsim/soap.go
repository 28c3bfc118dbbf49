package main

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"net/http"
	"regexp"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

const envelope = xml.Header + `<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/"` +
	` xmlns:xsd="http://www.w3.org/2001/XMLSchema" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">` +
	`<soapenv:Body>%s</soapenv:Body></soapenv:Envelope>`

var taskReply = regexp.MustCompile(`<returnval[^>]*>(task-\d+)<`)

func escape(text string) string {
	var out bytes.Buffer
	_ = xml.EscapeText(&out, []byte(text))
	return out.String()
}

// sendXML answers with a SOAP envelope around body.
func sendXML(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "text/xml; charset=utf-8")
	w.WriteHeader(status)
	fmt.Fprintf(w, envelope, body)
}

// sendFault answers with a SOAP fault of the named vim25 type; inner is the XML of its fields.
func sendFault(w http.ResponseWriter, name, message, inner string) {
	sendXML(w, http.StatusInternalServerError, fmt.Sprintf(
		`<soapenv:Fault><faultcode>ServerFaultCode</faultcode><faultstring>%s</faultstring>`+
			`<detail><%[2]sFault xmlns="urn:vim25" xsi:type="%[2]s">%[3]s</%[2]sFault></detail></soapenv:Fault>`,
		escape(message), name, inner))
}

// sendReply answers a method with the XML of its result.
func sendReply(w http.ResponseWriter, method, inner string) {
	sendXML(w, http.StatusOK, fmt.Sprintf(`<%[1]sResponse xmlns="urn:vim25">%[2]s</%[1]sResponse>`, method, inner))
}

func sendTask(w http.ResponseWriter, method string, task types.ManagedObjectReference) {
	sendReply(w, method, `<returnval type="Task">`+task.Value+`</returnval>`)
}

// taskIn finds the task that a reply of the stock simulator names, or nil.
func taskIn(reply []byte) *simulator.Task {
	found := taskReply.FindSubmatch(reply)
	if found == nil {
		return nil
	}
	task, _ := simulator.Map.Get(types.ManagedObjectReference{Type: "Task", Value: string(found[1])}).(*simulator.Task)
	return task
}
