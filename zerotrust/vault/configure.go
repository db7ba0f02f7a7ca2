package vault

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"

	"github.com/hashicorp/vault/api"
)

// Diff tells what separates the server from the settings, and changes nothing. The
// session needs to read the configuration, as AuditRole may.
func (s *Session) Diff(ctx context.Context, settings Settings) (Plan, error) {
	want := Objects(settings)
	have, err := s.read(ctx, want)
	if err != nil {
		return Plan{}, fmt.Errorf("vault: read the configuration: %w", err)
	}
	return diff(have, want), nil
}

// Configure makes the server hold the settings and nothing else in its mounts.
// passwords are those of databases that are new to it, by name: it is given the
// password once, and changes it to one that it alone knows (see RotateRoot). The
// session needs a root token. What was done stays if it fails; a second call goes on.
func (s *Session) Configure(ctx context.Context, settings Settings, passwords map[string]string) (Plan, error) {
	plan, err := s.Diff(ctx, settings)
	if err != nil {
		return plan, err
	}
	for _, m := range plan.Mount {
		if err := s.mount(ctx, m); err != nil {
			return plan, fmt.Errorf("vault: mount %s %s: %w", m.Kind, m.Path, err)
		}
	}
	return plan, s.apply(ctx, settings, plan, passwords)
}

func (s *Session) apply(ctx context.Context, settings Settings, plan Plan, passwords map[string]string) error {
	for _, o := range plan.Write {
		data := flat(o.Data)
		for _, d := range settings.Databases {
			if o.Path == d.configPath() && passwords[d.Name] != "" {
				data["password"] = passwords[d.Name]
			}
		}
		if err := s.Write(ctx, o.Path, data); err != nil {
			return err
		}
	}
	for _, path := range plan.Remove {
		if _, err := s.client.Logical().DeleteWithContext(ctx, path); err != nil {
			return fmt.Errorf("vault: remove %s: %w", path, plainError(err))
		}
	}
	return nil
}

// RotateRoot has Vault change the superuser's password to one that nobody else knows.
func (s *Session) RotateRoot(ctx context.Context, database string) error {
	if _, err := s.client.Logical().WriteWithContext(ctx, DatabasePath+"/rotate-root/"+database, nil); err != nil {
		return fmt.Errorf("vault: change the superuser's password of database %s: %w", database, plainError(err))
	}
	return nil
}

// Forget drops the connection to a database, so that the next Configure makes it
// anew with a password given to it.
func (s *Session) Forget(ctx context.Context, database string) error {
	if _, err := s.client.Logical().DeleteWithContext(ctx, DatabasePath+"/config/"+database); err != nil {
		return fmt.Errorf("vault: forget database %s: %w", database, plainError(err))
	}
	return nil
}

// Write writes one path, for what is not of the settings.
func (s *Session) Write(ctx context.Context, path string, data map[string]any) error {
	if _, err := s.client.Logical().WriteWithContext(ctx, path, data); err != nil {
		return fmt.Errorf("vault: write %s: %w", path, plainError(err))
	}
	return nil
}

// flat is the data as it is written: what Vault answers as connection_details it takes
// as fields of their own.
func flat(data map[string]any) map[string]any {
	out := map[string]any{}
	for k, v := range data {
		if inner, nested := v.(map[string]any); nested {
			maps.Copy(out, inner)
			continue
		}
		out[k] = v
	}
	return out
}

func (s *Session) mount(ctx context.Context, m Mount) error {
	sys := s.client.Sys()
	switch m.Kind {
	case "auth":
		return sys.EnableAuthWithOptionsWithContext(ctx, m.Path, &api.EnableAuthOptions{Type: m.Type})
	case "audit":
		return sys.EnableAuditWithOptionsWithContext(ctx, m.Path, &api.EnableAuditOptions{Type: m.Type, Options: map[string]string{"file_path": m.Path}})
	}
	input := &api.MountInput{Type: m.Type}
	if m.Type == "kv" {
		input.Options = map[string]string{"version": "2"}
	}
	return sys.MountWithContext(ctx, m.Path, input)
}

// read gets the mounts, the wanted objects, and whatever else is in our mounts.
func (s *Session) read(ctx context.Context, want []Object) (state, error) {
	have := state{map[Mount]bool{}, map[string]map[string]any{}}
	auths, err := s.client.Sys().ListAuthWithContext(ctx)
	if err != nil {
		return have, err
	}
	for path, a := range auths {
		have.mounts[Mount{"auth", strings.TrimSuffix(path, "/"), a.Type}] = true
	}
	engines, err := s.client.Sys().ListMountsWithContext(ctx)
	if err != nil {
		return have, err
	}
	for path, e := range engines {
		have.mounts[Mount{"secrets", strings.TrimSuffix(path, "/"), e.Type}] = true
	}
	devices, err := s.client.Sys().ListAuditWithContext(ctx)
	if err != nil {
		return have, err
	}
	for path, d := range devices {
		have.mounts[Mount{"audit", strings.TrimSuffix(path, "/"), d.Type}] = true
	}
	paths := map[string]bool{}
	for _, o := range want {
		paths[o.Path] = true
	}
	for _, dir := range []string{"auth/" + AuthPath + "/role", DatabasePath + "/config", DatabasePath + "/roles", "sys/policies/acl"} {
		names, err := s.list(ctx, dir)
		if err != nil {
			return have, err
		}
		for _, n := range names {
			if dir != "sys/policies/acl" || strings.HasPrefix(n, policyPrefix) {
				paths[dir+"/"+n] = true
			}
		}
	}
	for path := range paths {
		found, err := s.client.Logical().ReadWithContext(ctx, path)
		if missing(err) {
			continue
		}
		if err != nil {
			return have, err
		}
		if found != nil && found.Data != nil {
			have.objects[path] = found.Data
		}
	}
	return have, nil
}

func (s *Session) list(ctx context.Context, dir string) ([]string, error) {
	found, err := s.client.Logical().ListWithContext(ctx, dir)
	if missing(err) || err == nil && found == nil {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	keys, _ := found.Data["keys"].([]any)
	for _, k := range keys {
		if name, ok := k.(string); ok {
			names = append(names, name)
		}
	}
	return names, nil
}

// missing says that there is nothing at a path, also because its engine is not mounted.
func missing(err error) bool {
	var r *api.ResponseError
	return errors.As(err, &r) && (r.StatusCode == http.StatusNotFound ||
		r.StatusCode == http.StatusBadRequest && strings.Contains(strings.Join(r.Errors, " "), "unsupported path") ||
		r.StatusCode == http.StatusForbidden && strings.Contains(strings.Join(r.Errors, " "), "no handler for route"))
}

// plainError is the error without the request's URL, which is that of a forwarded port.
func plainError(err error) error {
	var r *api.ResponseError
	if errors.As(err, &r) {
		return fmt.Errorf("status %d: %s", r.StatusCode, strings.Join(r.Errors, "; "))
	}
	return err
}
