// A front end to compose-go v1.19.0, the loader that Docker Compose 2.22.0 pins: the oldest release that a rendered
// bundle promises to run on, and one of which there is no wheel.
//
// It takes the part of `docker-compose config` that tests use, on the project in the working directory, with the options
// that release gives the loader: .env, include, env files, override file and interpolation are the library's own.
// What the release adds by itself is said where it is done. A project that is refused ends it with 1 and the reason.
package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"sort"

	"github.com/compose-spec/compose-go/cli"
	"github.com/compose-spec/compose-go/types"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	if len(arguments) == 0 || arguments[0] != "config" {
		return fmt.Errorf("usage: config [--quiet | --hash '*' | --format json]")
	}
	flags := flag.NewFlagSet("config", flag.ContinueOnError)
	quiet := flags.Bool("quiet", false, "only validate")
	hash := flags.String("hash", "", "* for the hash of every service")
	flags.String("format", "json", "json is all there is")
	if err := flags.Parse(arguments[1:]); err != nil {
		return err
	}
	if *hash != "" {
		return printHashes()
	}
	project, err := load(cli.WithDiscardEnvFile)
	if err != nil || *quiet {
		return err
	}
	text, err := project.MarshalJSON()
	if err != nil {
		return err
	}
	// What was interpolated is shown in a form that interpolates to itself.
	_, err = os.Stdout.Write(bytes.ReplaceAll(text, []byte("$"), []byte("$$")))
	return err
}

func load(also ...cli.ProjectOptionsFn) (*types.Project, error) {
	options, err := cli.NewProjectOptions(nil, append(also,
		cli.WithResolvedPaths(true),
		cli.WithWorkingDirectory(""),
		cli.WithOsEnv,
		cli.WithEnvFiles(),
		cli.WithDotEnv,
		cli.WithConfigFileEnv,
		cli.WithDefaultConfigPath,
		cli.WithName(""),
	)...)
	if err != nil {
		return nil, err
	}
	project, err := cli.ProjectFromOptions(options)
	if err != nil {
		return nil, err
	}
	project.WithoutUnnecessaryResources() // such as the default network where no service is in it
	return project, nil
}

// The digest of all that makes a container what it is: the release leaves out how its image is built and pulled, and
// how many of it there are. It hashes the env files' names, not what they say.
func printHashes() error {
	project, err := load(cli.WithoutEnvironmentResolution)
	if err != nil {
		return err
	}
	sort.Slice(project.Services, func(i, j int) bool { return project.Services[i].Name < project.Services[j].Name })
	for _, service := range project.Services {
		service.Build, service.PullPolicy, service.Scale = nil, "", 1
		text, err := json.Marshal(service)
		if err != nil {
			return err
		}
		fmt.Printf("%s %x\n", service.Name, sha256.Sum256(text))
	}
	return nil
}
