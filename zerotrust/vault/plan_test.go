package vault

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

func settings() Settings {
	id := spiffeid.RequireFromString
	return Settings{
		Issuer: "http://oidc", Keys: Endpoint{"oidc:8443", id("spiffe://d/oidc")}, AuditID: id("spiffe://d/admin"),
		Access: []Access{
			{Name: "shop", ID: id("spiffe://d/ns/a/sa/shop"), KV: true, Database: "orders"},
			{Name: "mail", ID: id("spiffe://d/ns/a/sa/mail"), KV: true},
		},
		Databases: []Database{{"orders", "postgres", Endpoint{"pg.a.svc:5433", id("spiffe://d/ns/a/sa/pg")}}},
	}
}

// complete is a Vault that holds the settings, as it would answer: through JSON.
func complete(t *testing.T) state {
	t.Helper()
	have := state{map[Mount]bool{}, map[string]map[string]any{}}
	for _, m := range mounts() {
		have.mounts[m] = true
	}
	for _, o := range Objects(settings()) {
		doc, err := json.Marshal(o.Data)
		if err != nil {
			t.Fatal(err)
		}
		var data map[string]any
		dec := json.NewDecoder(strings.NewReader(string(doc)))
		dec.UseNumber()
		if err := dec.Decode(&data); err != nil {
			t.Fatal(err)
		}
		data["something_else"] = "Vault's own"
		have.objects[o.Path] = data
	}
	return have
}

func TestDiff(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(state)
		want   string
	}{
		"nothing changed": {func(state) {}, "nothing to do"},
		"a mount missing": {func(s state) { delete(s.mounts, Mount{"secrets", "secret", "kv"}) }, "mount secrets secret of type kv"},
		"a mount of another type": {func(s state) {
			delete(s.mounts, Mount{"auth", "jwt", "jwt"})
			s.mounts[Mount{"auth", "jwt", "userpass"}] = true
		}, "mount auth jwt of type jwt"},
		"a role missing":     {func(s state) { delete(s.objects, "auth/jwt/role/shop") }, "create auth/jwt/role/shop"},
		"a role for another": {func(s state) { s.objects["auth/jwt/role/shop"]["bound_subject"] = "spiffe://d/ns/a/sa/evil" }, "change auth/jwt/role/shop: bound_subject"},
		"a policy more":      {func(s state) { s.objects["auth/jwt/role/mail"]["token_policies"] = []any{"zerotrust-mail", "root"} }, "change auth/jwt/role/mail: token_policies"},
		"a wider policy":     {func(s state) { s.objects["sys/policies/acl/zerotrust-mail"]["policy"] = `path "*" {}` }, "change sys/policies/acl/zerotrust-mail: policy"},
		"a longer life":      {func(s state) { s.objects["database/roles/shop"]["max_ttl"] = json.Number("86400") }, "change database/roles/shop: max_ttl"},
		"another server": {func(s state) {
			s.objects["database/config/orders"]["connection_details"].(map[string]any)["connection_url"] = "x"
		}, "change database/config/orders: connection_details.connection_url"},
		"a role not derived":   {func(s state) { s.objects["auth/jwt/role/backdoor"] = map[string]any{} }, "remove auth/jwt/role/backdoor"},
		"a policy not derived": {func(s state) { s.objects["sys/policies/acl/zerotrust-x"] = map[string]any{} }, "remove sys/policies/acl/zerotrust-x"},
	} {
		t.Run(name, func(t *testing.T) {
			have := complete(t)
			tc.change(have)
			p := diff(have, Objects(settings()))
			if got := p.String(); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
			if p.Empty() != (tc.want == "nothing to do") {
				t.Errorf("Empty: %t", p.Empty())
			}
		})
	}
	empty := diff(state{}, Objects(settings()))
	if len(empty.Mount) != 4 || len(empty.Write) != len(Objects(settings())) || len(empty.Remove) != 0 {
		t.Errorf("for an empty Vault: %s", empty)
	}
}

// A policy gives exactly what the workload may have.
func TestPolicies(t *testing.T) {
	for _, a := range settings().Access {
		p := a.policy()
		if got := strings.Contains(p, "database/creds/"); got != (a.Database != "") {
			t.Errorf("%s: database users in the policy: %t\n%s", a.Name, got, p)
		}
		for _, other := range []string{"sys/", `"*"`, "sudo", "auth/jwt"} {
			if strings.Contains(p, other) {
				t.Errorf("%s: the policy speaks of %s:\n%s", a.Name, other, p)
			}
		}
		if !strings.Contains(p, `"secret/data/`+a.Name+`/*"`) {
			t.Errorf("%s: no KV below its name:\n%s", a.Name, p)
		}
	}
}

func TestWrittenDataIsFlat(t *testing.T) {
	got := flat(map[string]any{"a": 1, "connection_details": map[string]any{"username": "u"}})
	if d := cmp.Diff(map[string]any{"a": 1, "username": "u"}, got); d != "" {
		t.Error(d)
	}
}

func TestDecodeRoot(t *testing.T) {
	token, otp := "hvs.root", "12345678"
	pad := make([]byte, len(token))
	for i := range pad {
		pad[i] = token[i] ^ otp[i]
	}
	got, err := decodeRoot(base64.RawStdEncoding.EncodeToString(pad), otp)
	if err != nil || got != token {
		t.Errorf("got %q, %v", got, err)
	}
	for _, bad := range []string{"", "!!", base64.RawStdEncoding.EncodeToString(pad[:3])} {
		if got, err := decodeRoot(bad, otp); err == nil {
			t.Errorf("%q: decoded to %q", bad, got)
		}
	}
}
