package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// answering is a client of a Vault that answers everything so, and what was asked last.
func answering(t *testing.T, status int, body string) (*Vault, *http.Request, *string) {
	t.Helper()
	last, sent := new(http.Request), new(string)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in map[string]any
		_ = json.NewDecoder(r.Body).Decode(&in)
		text, _ := json.Marshal(in)
		*last, *sent = *r, string(text)
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}))
	t.Cleanup(server.Close)
	v, err := New(Config{Address: server.URL, HTTP: server.Client(), AuthPath: "jwt", Role: "backend", Audience: "vault", KVMount: "secret", KVPrefix: "backend",
		FetchJWT: func(_ context.Context, audience string) (string, error) { return "JWT-for-" + audience, nil }})
	if err != nil {
		t.Fatal(err)
	}
	return v, last, sent
}

func login(t *testing.T, status int, body string) (*Login, *http.Request, *string) {
	t.Helper()
	v, last, sent := answering(t, status, body)
	client, err := v.client.Clone()
	if err != nil {
		t.Fatal(err)
	}
	client.SetToken("hvs.secret")
	return &Login{client: client, mount: "secret", prefix: "backend"}, last, sent
}

func TestLogin(t *testing.T) {
	v, asked, sent := answering(t, 200, `{"auth":{"client_token":"hvs.secret","lease_duration":600}}`)
	l, err := v.Login(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if asked.URL.Path != "/v1/auth/jwt/login" || *sent != `{"jwt":"JWT-for-vault","role":"backend"}` || asked.Header.Get("X-Vault-Token") != "" {
		t.Errorf("asked %s with %s", asked.URL, *sent)
	}
	if left := time.Until(l.Expires); left < 590*time.Second || left > 600*time.Second {
		t.Errorf("expires in %s", left)
	}
}

func TestReasons(t *testing.T) {
	asks := map[string]func(*Vault, *Login) error{
		"check": func(v *Vault, _ *Login) error { return v.Check(t.Context()) },
		"login": func(v *Vault, _ *Login) error { _, err := v.Login(t.Context()); return err },
		"creds": func(_ *Vault, l *Login) error { _, err := l.Database(t.Context(), "backend"); return err },
		"get":   func(_ *Vault, l *Login) error { _, err := l.Get(t.Context(), "github/1"); return err },
		"put":   func(_ *Vault, l *Login) error { return l.Put(t.Context(), "github/1", nil) },
		"end":   func(_ *Vault, l *Login) error { return l.Revoke(t.Context()) },
	}
	for _, tc := range []struct {
		ask    string
		status int
		body   string
		want   Reason
	}{
		{"check", 200, `{"initialized":true,"sealed":false}`, ""},
		{"check", 299, `{"initialized":true,"sealed":true}`, Sealed},
		{"check", 299, `{"initialized":false,"sealed":true}`, Uninitialised},
		{"check", 503, `no upstream`, Unreachable},
		{"login", 503, `{"errors":["Vault is sealed"]}`, Sealed},
		{"login", 400, `{"errors":["error validating token: invalid audience (aud) claim"]}`, Refused},
		{"login", 403, `{"errors":["permission denied"]}`, Refused},
		{"login", 200, `{}`, Wrong},
		{"login", 502, ``, Unreachable},
		{"creds", 500, `{"errors":["failed to connect to postgres"]}`, NoDatabase},
		{"creds", 403, `{"errors":["permission denied"]}`, Denied},
		{"creds", 503, `{"errors":["Vault is sealed"]}`, Sealed},
		{"creds", 200, `{"data":{"username":"u"}}`, Wrong},
		{"creds", 404, `{"errors":[]}`, Wrong},
		{"get", 403, `{"errors":["2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n"]}`, Denied},
		{"get", 503, `{"errors":["Vault is sealed"]}`, Sealed},
		{"put", 403, `{"errors":["permission denied"]}`, Denied},
		{"end", 403, `{"errors":["permission denied"]}`, Denied},
	} {
		t.Run(tc.ask+" "+string(tc.want), func(t *testing.T) {
			v, _, _ := answering(t, tc.status, tc.body)
			l, _, _ := login(t, tc.status, tc.body)
			err := asks[tc.ask](v, l)
			if tc.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if reasonOf(err) != tc.want {
				t.Fatalf("got %v, want %q", err, tc.want)
			}
			for _, secret := range []string{"JWT-for", "hvs.secret"} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("%v holds %q", err, secret)
				}
			}
		})
	}
}

func reasonOf(err error) Reason {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Reason
	}
	return ""
}

func ExampleError() {
	err := error(&Error{Op: `log in to Vault as "backend"`, Reason: Sealed})
	fmt.Println(err)
	// Output: log in to Vault as "backend": sealed
}

func TestNobodyThere(t *testing.T) {
	v, _, _ := answering(t, 200, "")
	v.config.FetchJWT = func(context.Context, string) (string, error) { return "", errors.New("no agent") }
	if _, err := v.Login(t.Context()); reasonOf(err) != NoJWT {
		t.Errorf("without a JWT: %v", err)
	}
	gone := httptest.NewServer(nil)
	gone.Close()
	v, err := New(Config{Address: gone.URL, HTTP: http.DefaultClient})
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if err := v.Check(t.Context()); reasonOf(err) != Unreachable {
		t.Errorf("without Vault: %v", err)
	}
	if time.Since(start) > time.Second {
		t.Error("it was tried again and again")
	}
}

func TestDatabaseThatHangs(t *testing.T) {
	hang := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hang }))
	defer server.Close()
	defer close(hang)
	v, err := New(Config{Address: server.URL, HTTP: &http.Client{Timeout: 100 * time.Millisecond}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = (&Login{client: v.client}).Database(t.Context(), "backend")
	if reasonOf(err) != NoDatabase {
		t.Errorf("got %v", err)
	}
}

func TestSecrets(t *testing.T) {
	l, asked, _ := login(t, 200, `{"data":{"data":{"token":"t"},"metadata":{"version":1}}}`)
	got, err := l.Get(t.Context(), "github/1")
	if err != nil || got["token"] != "t" || asked.URL.Path != "/v1/secret/data/backend/github/1" || asked.Header.Get("X-Vault-Token") != "hvs.secret" {
		t.Errorf("got %v, %v by %s", got, err, asked.URL)
	}
	l, asked, sent := login(t, 200, `{"data":{"version":2}}`)
	if err := l.Put(t.Context(), "github/1", map[string]any{"token": "t"}); err != nil || *sent != `{"data":{"token":"t"},"options":{}}` && *sent != `{"data":{"token":"t"}}` || asked.Method != http.MethodPut {
		t.Errorf("put: %v, %s %s", err, asked.Method, *sent)
	}
	for name, body := range map[string]string{
		"never there": `{"errors":[]}`,
		"deleted":     `{"data":{"data":null,"metadata":{"version":1,"deletion_time":"2026-01-01T00:00:00Z"}}}`,
	} {
		l, _, _ := login(t, 404, body)
		if _, err := l.Get(t.Context(), "github/1"); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDatabase(t *testing.T) {
	l, asked, _ := login(t, 200, `{"lease_duration":60,"data":{"username":"v-jwt-x","password":"s3cret"}}`)
	c, err := l.Database(t.Context(), "backend")
	if err != nil || c.User != "v-jwt-x" || c.Password != "s3cret" || asked.URL.Path != "/v1/database/creds/backend" {
		t.Errorf("got %v, %v by %s", c, err, asked.URL)
	}
	if text := fmt.Sprintf("%v %s %+v", c, c, c); strings.Contains(text, "s3cret") {
		t.Errorf("printed as %s", text)
	}
}
