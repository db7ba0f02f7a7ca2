package zerotrust

import (
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/org/spire-vault-99-action/internal/loopback"
)

// What a server does with a caller without a certificate is told from what it says, and
// a connection that just ends tells nothing.
func TestAsk(t *testing.T) {
	ok := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) })
	start := func(auth tls.ClientAuthType) string {
		s := httptest.NewUnstartedServer(ok)
		s.Config.ErrorLog = log.New(io.Discard, "", 0)
		s.TLS = &tls.Config{ClientAuth: auth, MinVersion: tls.VersionTLS13}
		s.StartTLS()
		t.Cleanup(s.Close)
		return s.Listener.Addr().String()
	}
	plain := httptest.NewServer(ok)
	t.Cleanup(plain.Close)
	hangsUp := loopback.Serve(t, func(c net.Conn) { c.Close() })
	anyone := &tls.Config{InsecureSkipVerify: true} //nolint:gosec // who serves is not the question here
	for name, tc := range map[string]struct {
		addr   string
		cfg    *tls.Config
		served bool
		want   string // in the text, or in the error where there is one
		fails  bool
	}{
		"it takes anybody":             {start(tls.NoClientCert), anyone, true, "served: 404", false},
		"it wants a certificate":       {start(tls.RequireAnyClientCert), anyone, false, "refused:", false},
		"plain text to TLS":            {start(tls.NoClientCert), nil, false, "refused: 400", false},
		"plain text is served":         {plain.Listener.Addr().String(), nil, true, "served: 404", false},
		"it hangs up":                  {hangsUp, nil, false, "", true},
		"it hangs up in the handshake": {hangsUp, anyone, false, "", true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ask(t.Context(), tc.addr, tc.cfg, knockHTTP("/"))
			if (err != nil) != tc.fails {
				t.Fatalf("got %+v, %v", got, err)
			}
			if got.served != tc.served || !strings.Contains(got.text, tc.want) {
				t.Errorf("got %+v, want served %t and %q", got, tc.served, tc.want)
			}
		})
	}
}

// What PostgreSQL says at the end of a session is its code; anything else is no answer.
func TestStartSession(t *testing.T) {
	message := func(kind byte, body string) string {
		n := len(body) + 4
		return string([]byte{kind, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}) + body
	}
	for name, tc := range map[string]struct{ answer, want, err string }{
		"refused":              {message('E', "SFATAL\x00VFATAL\x00C28000\x00Mno pg_hba.conf entry\x00\x00"), notAuthorized, ""},
		"another refusal":      {message('E', "SFATAL\x00C57P03\x00Mstarting up\x00\x00"), "57P03", ""},
		"no password asked":    {message('R', "\x00\x00\x00\x00") + message('Z', "I"), "", "took nobody without a password"},
		"cut short":            {"E\x00", "", "unexpected EOF"},
		"it closes":            {"", "", "EOF"},
		"another protocol":     {"HTTP/1.1 400 Bad Request\r\n\r\n", "", "starting a session"},
		"an unknown way to it": {message('R', "\x00\x00\x00\x63"), "", "starting a session"},
	} {
		t.Run(name, func(t *testing.T) {
			addr := loopback.Serve(t, func(c net.Conn) {
				defer c.Close()
				_, _ = c.Read(make([]byte, 1024))
				_, _ = io.WriteString(c, tc.answer)
			})
			conn, err := connect(t.Context(), addr)
			if err != nil {
				t.Fatal(err)
			}
			got, err := startSession(t.Context(), conn, nil, "nobody")
			if got != tc.want || (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Errorf("got %q, %v; want %q, %q", got, err, tc.want, tc.err)
			}
			if strings.HasSuffix(tc.err, "EOF") != (err != nil && ended(err)) {
				t.Errorf("ended: %v", err)
			}
		})
	}
}
