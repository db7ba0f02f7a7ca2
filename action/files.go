package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strings"
)

// outputText is the outputs as the runner reads them from the file that GITHUB_OUTPUT
// names. Each value ends at a delimiter that cannot be foreseen, so no value, whoever it
// comes from, can end it and begin another output:
// https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands#multiline-strings
// The delimiter of go-githubactions is a constant.
func outputText(pairs [][2]string, delimiter func() string) (string, error) {
	var b strings.Builder
	for _, p := range pairs {
		end := delimiter()
		if strings.Contains(p[1], end) || strings.ContainsAny(p[0], "<=\r\n") {
			return "", fmt.Errorf("output %s: its delimiter is in its value", shown(p[0]))
		}
		fmt.Fprintf(&b, "%s<<%s\n%s\n%s\n", p[0], end, p[1], end)
	}
	return b.String(), nil
}

// randomToken is a word that nobody can foresee.
func randomToken() string { return "end-" + rand.Text() }

// appendFile adds text to a file that the runner made for this step, whose path is in the
// variable of that name.
func appendFile(variable, path, text string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("writing the file of %s: %w", variable, err)
		}
	}()
	if path == "" {
		return errors.New("the variable is not set: is this a step of a workflow?")
	}
	// Without O_CREATE: a file that is not there would be read by nobody.
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}
