package main

import (
	"encoding/base64"
	"regexp"
	"strings"

	"k8s.io/client-go/tools/clientcmd/api"
)

// secretName is a setting whose value is one. Others, such as a profile's name, are words that
// the log needs.
var secretName = regexp.MustCompile(`(?i)token|secret|password|key`)

// secretsOf are the secrets of a kubeconfig, in each form in which they may turn up.
func secretsOf(c *api.Config) []string {
	var all []string
	add := func(s string) {
		if s = strings.TrimSpace(s); s != "" {
			all = append(all, s)
		}
	}
	for _, u := range c.AuthInfos {
		add(u.Token)
		add(u.Password)
		if len(u.ClientKeyData) > 0 {
			add(base64.StdEncoding.EncodeToString(u.ClientKeyData))
			for l := range strings.Lines(string(u.ClientKeyData)) {
				if !strings.HasPrefix(l, "-----") { // the same in every key
					add(l)
				}
			}
		}
		if u.AuthProvider != nil {
			for k, v := range u.AuthProvider.Config {
				if secretName.MatchString(k) {
					add(v)
				}
			}
		}
		if u.Exec != nil {
			for _, e := range u.Exec.Env {
				if secretName.MatchString(e.Name) {
					add(e.Value)
				}
			}
		}
	}
	return all
}
