package images

import (
	"fmt"
	"strings"
	"sync"
	"time"
)

// Event is one line of progress. Fields that do not apply are zero.
type Event struct {
	// Verb says what happens, as in "load", "loaded" or "resolve".
	Verb string
	// Ref is the image, or several of them separated by spaces.
	Ref string
	// Node is the node or the registry that it concerns.
	Node string
	// Done and Total count bytes.
	Done, Total int64
	// Elapsed is the time since the work began.
	Elapsed time.Duration
	// Detail is anything else worth a word.
	Detail string
}

// String renders the event on one line.
func (e Event) String() string {
	var b strings.Builder
	b.WriteString(e.Verb)
	if e.Ref != "" {
		b.WriteString(" " + e.Ref)
	}
	if e.Node != "" {
		b.WriteString(" (" + e.Node + ")")
	}
	if e.Total > 0 {
		fmt.Fprintf(&b, " %s of %s", byteCount(e.Done), byteCount(e.Total))
	}
	if e.Detail != "" {
		b.WriteString(": " + strings.ReplaceAll(e.Detail, "\n", " "))
	}
	if e.Elapsed > 0 {
		fmt.Fprintf(&b, " [%.1fs]", e.Elapsed.Seconds())
	}
	return b.String()
}

func byteCount(n int64) string {
	switch {
	case n >= 1e9:
		return fmt.Sprintf("%.1f GB", float64(n)/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	case n >= 1e3:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	}
	return fmt.Sprintf("%d B", n)
}

// oneAtATime returns an emitter that calls on, which may be nil, from one
// goroutine at a time.
func oneAtATime(on func(Event)) func(Event) {
	if on == nil {
		return func(Event) {}
	}
	var mu sync.Mutex
	return func(e Event) {
		mu.Lock()
		defer mu.Unlock()
		on(e)
	}
}
