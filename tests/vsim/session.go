package main

import (
	"net/http"
	"sync"
	"time"

	"github.com/vmware/govmomi/vim25/soap"
)

// sessions are the logins this front believes in. The stock simulator never forgets one unless a process-wide timeout
// is set before it starts, and asks nothing at all of /folder.
type sessions struct {
	mu      sync.Mutex
	lastUse map[string]time.Time
	users   map[string]string // whose each is, by the SOAP session's cookie or the REST session's id
	idle    time.Duration     // 0: a session never expires
}

func newSessions() *sessions {
	return &sessions{lastUse: map[string]time.Time{}, users: map[string]string{}}
}

// known says whether the request carries a live session, and counts the request as a use of it.
func (s *sessions) known(r *http.Request) bool {
	cookie, err := r.Cookie(soap.SessionCookieName)
	if err != nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	last, ok := s.lastUse[cookie.Value]
	if !ok {
		return false
	}
	if s.idle > 0 && time.Since(last) > s.idle {
		delete(s.lastUse, cookie.Value)
		return false
	}
	s.lastUse[cookie.Value] = time.Now()
	return true
}

// touch counts the end of a call as a use: a long poll is no idleness.
func (s *sessions) touch(r *http.Request) {
	if cookie, err := r.Cookie(soap.SessionCookieName); err == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		if _, live := s.lastUse[cookie.Value]; live {
			s.lastUse[cookie.Value] = time.Now()
		}
	}
}

// learn remembers a session that a reply of the stock simulator has just opened for that user.
func (s *sessions) learn(reply *http.Response, user string) {
	for _, cookie := range reply.Cookies() {
		if cookie.Name == soap.SessionCookieName {
			s.mu.Lock()
			s.lastUse[cookie.Value] = time.Now()
			s.users[cookie.Value] = user
			s.mu.Unlock()
		}
	}
}

// user is whose session the request carries, "" when none that is known.
func (s *sessions) user(r *http.Request) string {
	id := r.Header.Get(restSessionHeader)
	if cookie, err := r.Cookie(soap.SessionCookieName); err == nil {
		id = cookie.Value
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.users[id]
}

// learnREST remembers whose a session of vAPI is.
func (s *sessions) learnREST(id, user string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users[id] = user
}

func (s *sessions) forget(r *http.Request) {
	if cookie, err := r.Cookie(soap.SessionCookieName); err == nil {
		s.mu.Lock()
		delete(s.lastUse, cookie.Value)
		s.mu.Unlock()
	}
}

func (s *sessions) dropAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastUse = map[string]time.Time{}
}

func (s *sessions) setIdle(limit time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.idle = limit
}
