package probe

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"
)

// fakeMachine answers as the prober on it would.
type fakeMachine struct {
	t        *testing.T
	greeting string // said once the marks are there
	printed  string // at the end of stdin
	dies     error  // before anything is said
	fails    error  // at the end
}

func (m fakeMachine) Exec(ctx context.Context, stdin io.Reader, stdout io.Writer, argv ...string) error {
	if want := []string{"/p", "capture", "-limit", "1m0s"}; !slices.Equal(argv, want) {
		m.t.Errorf("run as %q, want %q", argv, want)
	}
	if m.dies != nil {
		return m.dies
	}
	in := bufio.NewReader(stdin)
	var marks []string
	for line := ""; line != "\n"; {
		var err error
		if line, err = in.ReadString('\n'); err != nil {
			m.t.Error("the marks have no end:", err)
			return nil
		}
		marks = append(marks, line)
	}
	if got := strings.Join(marks, ""); got != "first mark 12\nsecond mark 1\n\n" {
		m.t.Errorf("marks %q", got)
	}
	fmt.Fprint(stdout, m.greeting)
	over := make(chan struct{})
	go func() { _, _ = io.Copy(io.Discard, in); close(over) }()
	select {
	case <-over:
	case <-ctx.Done():
		return ctx.Err()
	}
	fmt.Fprint(stdout, m.printed)
	return m.fails
}

var twoMarks = []string{"first mark 12", "second mark 1"}

const heard = `{"flows":[{"protocol":"tcp","src":"10.0.0.1:40000","dst":"10.0.0.2:80","packets":2,"bytes":30,"hits":[1,0]},` +
	`{"protocol":"other","src":"","dst":"","packets":1,"bytes":60,"hits":[0,0]}],"packets":9,"dropped":1,"truncated":0,"seconds":1.5}`

func TestListen(t *testing.T) {
	no := errors.New("no such file")
	for what, tt := range map[string]struct {
		machine fakeMachine
		starts  bool
		says    string // the error of either
	}{
		"it hears":              {fakeMachine{greeting: "listening\n", printed: heard + "\n"}, true, ""},
		"it is not there":       {fakeMachine{dies: no}, false, "no such file"},
		"it is another program": {fakeMachine{greeting: "hello\n"}, false, `it said "hello\n"`},
		"it says nothing":       {fakeMachine{greeting: "listening\n"}, true, "unexpected end of JSON"},
		"it fails at the end":   {fakeMachine{greeting: "listening\n", printed: heard[:20], fails: no}, true, "no such file"},
		"it ends halfway":       {fakeMachine{greeting: "listening\n", printed: heard[:60]}, true, "unexpected end of JSON"},
	} {
		t.Run(what, func(t *testing.T) {
			tt.machine.t = t
			c, err := Listen(t.Context(), tt.machine, "/p", twoMarks, time.Minute)
			if (err == nil) != tt.starts {
				t.Fatal(err)
			}
			var got Traffic
			if err == nil {
				got, err = c.Stop()
			}
			if tt.says != "" {
				if err == nil || !strings.Contains(err.Error(), tt.says) {
					t.Errorf("%v, want an error that says %q", err, tt.says)
				}
				return
			}
			if err != nil || len(got.Flows) != 2 || got.Packets != 9 || got.Dropped != 1 || got.Flows[0].Dst.Port() != 80 || got.Flows[1].Src.IsValid() || !slices.Equal(got.Flows[0].Hits, []int{1, 0}) {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

func TestListenIsCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	c, err := Listen(ctx, fakeMachine{t: t, greeting: "listening\n"}, "/p", twoMarks, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := c.Stop(); err == nil {
		t.Error("what a capture heard that was broken off passes for all")
	}
	if _, err := Listen(t.Context(), fakeMachine{t: t}, "/p", []string{"two\nlines of it"}, time.Minute); err == nil {
		t.Error("a mark of two lines")
	}
}

func TestParseTraffic(t *testing.T) {
	for what, spoilt := range map[string]string{
		"nothing":                 "",
		"an empty object":         "{}",
		"no time":                 strings.Replace(heard, `"seconds":1.5`, `"seconds":0`, 1),
		"no flows":                strings.Replace(heard, `"flows"`, `"flow"`, 1),
		"less than nothing lost":  strings.Replace(heard, `"dropped":1`, `"dropped":-1`, 1),
		"hits of another mark":    strings.Replace(heard, `[1,0]`, `[1,0,0]`, 1),
		"no hits":                 strings.Replace(heard, `[1,0]`, `null`, 1),
		"a protocol of its own":   strings.Replace(heard, `"other"`, `"sctp"`, 1),
		"no address":              strings.Replace(heard, `10.0.0.1:40000`, ``, 1),
		"an address that is none": strings.Replace(heard, `10.0.0.1:40000`, `web:80`, 1),
		"no packets":              strings.Replace(heard, `"packets":2`, `"packets":0`, 1),
		"packets of nothing":      strings.Replace(heard, `"bytes":30`, `"bytes":1`, 1),
		"two of them":             heard + heard,
	} {
		if _, err := parseTraffic([]byte(spoilt), 2); err == nil {
			t.Errorf("%s is taken for traffic", what)
		}
	}
}
