package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
)

const restSessionHeader = "vmware-api-session-id"

// serveREST is vAPI: journalled, and spoilt by rules for "rest:GET" and the like, with the path as the object. Who logs
// in is checked, and what a role does not allow is refused without saying which privilege it takes, as vAPI does.
func (v *vcenter) serveREST(w http.ResponseWriter, r *http.Request) {
	v.journal.rest(r.Method + " " + r.URL.RequestURI())
	due := v.rules.match(&request{method: "rest:" + r.Method, this: reference{Value: r.URL.Path}})
	if due != nil && spoil(&countingWriter{ResponseWriter: w}, due) {
		return
	}
	if user, password, basic := r.BasicAuth(); basic && r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/cis/session") {
		v.openREST(w, r, user, password)
		return
	}
	if v.roles.lacks(v.sessions.user(r), restNeeds(r)) != nil {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	v.stock.ServeHTTP(w, r)
}

func (v *vcenter) openREST(w http.ResponseWriter, r *http.Request, user, password string) {
	if !v.mayLogIn(user, password) {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	reply := httptest.NewRecorder()
	v.stock.ServeHTTP(reply, r)
	opened := struct {
		Value string `json:"value"`
	}{}
	if json.Unmarshal(reply.Body.Bytes(), &opened) == nil {
		v.sessions.learnREST(opened.Value, user)
	}
	for key, values := range reply.Header() {
		w.Header()[key] = values
	}
	w.WriteHeader(reply.Code)
	_, _ = w.Write(reply.Body.Bytes())
}
