package main

import "net/http"

// serveREST is vAPI: journalled, and spoilt by rules for "rest:GET" and the like, with the path as the object.
func (v *vcenter) serveREST(w http.ResponseWriter, r *http.Request) {
	v.journal.rest(r.Method + " " + r.URL.RequestURI())
	due := v.rules.match(&request{method: "rest:" + r.Method, this: reference{Value: r.URL.Path}})
	if due != nil && spoil(&countingWriter{ResponseWriter: w}, due) {
		return
	}
	v.stock.ServeHTTP(w, r)
}
