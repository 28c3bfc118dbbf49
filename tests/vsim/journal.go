package main

import "sync"

// journal counts what clients asked for, so that a test can hold a client to what it claims to have spared the host.
type journal struct {
	mu             sync.Mutex
	Methods        map[string]int `json:"methods"`
	Calls          []call         `json:"calls"`
	Rest           []string       `json:"rest"`
	FolderRequests int            `json:"folder_requests"`
	FolderSent     int64          `json:"folder_bytes_served"`
	FolderReceived int64          `json:"folder_bytes_received"`
}

type call struct {
	Method string `json:"method"`
	Object string `json:"object"`
}

// maxCalls bounds the log of single calls; the counts go on.
const maxCalls = 10000

func (j *journal) soap(method, object string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.Methods == nil {
		j.Methods = map[string]int{}
	}
	j.Methods[method]++
	if len(j.Calls) < maxCalls {
		j.Calls = append(j.Calls, call{method, object})
	}
}

func (j *journal) rest(call string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.Rest) < maxCalls {
		j.Rest = append(j.Rest, call)
	}
}

func (j *journal) folder(sent, received int64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.FolderRequests++
	j.FolderSent += sent
	j.FolderReceived += received
}

func (j *journal) copy(reset bool) answer {
	j.mu.Lock()
	defer j.mu.Unlock()
	counts := map[string]int{}
	for name, n := range j.Methods {
		counts[name] = n
	}
	told := answer{
		"methods": counts, "calls": append([]call{}, j.Calls...), "rest": append([]string{}, j.Rest...), "folder_requests": j.FolderRequests,
		"folder_bytes_served": j.FolderSent, "folder_bytes_received": j.FolderReceived,
	}
	if reset {
		j.Methods, j.Calls, j.Rest, j.FolderRequests, j.FolderSent, j.FolderReceived = nil, nil, nil, 0, 0, 0
	}
	return told
}
