package precinct

import (
	"fmt"
	"net/url"
	"strings"
	"sync"

	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
)

// request is one that the browser made.
type request struct {
	id, method, url string
	kind            string // Document, Script, Fetch, Preflight …
	status          int    // 0: no answer
	failed          string // the network error, if there was one
	step            string
}

func (r request) String() string {
	u := r.url
	if p, err := url.Parse(r.url); err == nil {
		p.RawQuery = ""
		u = p.String()
	}
	return fmt.Sprintf("%s %s (%s, in %q)", r.method, u, r.kind, r.step)
}

// message is one on the console: an error, a warning, an uncaught exception, a
// violation of the content security policy.
type message struct {
	level, source, text, url string
	request                  string // the ID of the one that it is about
	step                     string
}

func (m message) String() string {
	return strings.TrimSpace(fmt.Sprintf("%s: %s %s", m.level, m.text, m.url)) + fmt.Sprintf(" (in %q)", m.step)
}

// record is all that the browser did on the journey.
type record struct {
	mu       sync.Mutex
	over     bool
	step     string
	requests []*request
	messages []message
	sent     map[string][]string // by request ID: the cookies that travelled with it
}

// enter says that from now on all belongs to a step.
func (r *record) enter(step string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.step = step
}

// end keeps what comes late out: from now on the record is only read.
func (r *record) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.over = true
}

// last is the newest request with the ID: redirects keep it.
func (r *record) last(id network.RequestID) *request {
	for i := len(r.requests) - 1; i >= 0; i-- {
		if r.requests[i].id == string(id) {
			return r.requests[i]
		}
	}
	return &request{} // of another tab's time
}

// listen takes an event of the browser in.
func (r *record) listen(event any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		return
	}
	switch e := event.(type) {
	case *network.EventRequestWillBeSent:
		if e.RedirectResponse != nil {
			r.last(e.RequestID).status = int(e.RedirectResponse.Status)
		}
		r.requests = append(r.requests, &request{id: string(e.RequestID), method: e.Request.Method, url: e.Request.URL, kind: string(e.Type), step: r.step})
	case *network.EventRequestWillBeSentExtraInfo:
		var names []string
		for _, c := range e.AssociatedCookies {
			if len(c.BlockedReasons) == 0 {
				names = append(names, c.Cookie.Name)
			}
		}
		if r.sent == nil {
			r.sent = map[string][]string{}
		}
		r.sent[string(e.RequestID)] = names
	case *network.EventResponseReceived:
		r.last(e.RequestID).status = int(e.Response.Status)
	case *network.EventLoadingFailed:
		// What a page still waited for when it was left is no failure.
		if !e.Canceled && e.ErrorText != "net::ERR_ABORTED" {
			r.last(e.RequestID).failed = strings.TrimSpace(e.ErrorText + " " + string(e.BlockedReason))
		}
	case *network.EventWebSocketCreated:
		r.requests = append(r.requests, &request{id: string(e.RequestID), method: "WebSocket", url: e.URL, kind: "WebSocket", status: 101, step: r.step})
	case *runtime.EventConsoleAPICalled:
		if e.Type == runtime.ConsoleAPICalledTypeError || e.Type == runtime.ConsoleAPICalledTypeWarning || e.Type == runtime.ConsoleAPICalledTypeAssert {
			var text []string
			for _, a := range e.Args {
				text = append(text, strings.Trim(string(a.Value), `"`)+a.Description)
			}
			r.messages = append(r.messages, message{level: string(e.Type), source: "console", text: strings.Join(text, " "), step: r.step})
		}
	case *runtime.EventExceptionThrown:
		r.messages = append(r.messages, message{level: "exception", source: "javascript", text: exception(e.ExceptionDetails), url: e.ExceptionDetails.URL, step: r.step})
	case *log.EventEntryAdded:
		if e.Entry.Level == log.EntryLevelError || e.Entry.Level == log.EntryLevelWarning {
			r.messages = append(r.messages, message{level: string(e.Entry.Level), source: string(e.Entry.Source), text: e.Entry.Text,
				url: e.Entry.URL, request: string(e.Entry.NetworkRequestID), step: r.step})
		}
	}
}
